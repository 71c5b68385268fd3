"""Commands and configs that cannot be composed: one message, exit code 2, and nothing on disk that looks done."""

import pytest
from refusals import require_refusal

#: What is wrong, and what the message says.
MISTAKES = {
    "a key that does not exist": (
        ["+config.CLUSTERFIT.FOO=1"],
        ["config.CLUSTERFIT.FOO: found an unknown key; allowed: OUTPUT_DIR, NUM_CLUSTERS"],
    ),
    "a misspelt key": (
        ["+config.CLUSTERFIT.FEATURES.LAYER=res5"],
        ["config.CLUSTERFIT.FEATURES.LAYER: found an unknown key", "Did you mean LAYER_NAME?"],
    ),
    "an unknown override": (
        ["config.CLUSTERFIT.NUM_CLUSTER=4"],
        ["config.CLUSTERFIT.NUM_CLUSTER, a key that does not exist", "Did you mean config.CLUSTERFIT.NUM_CLUSTERS"],
    ),
    "an override of another form": (
        ["config.SEED_VALUE"],
        ["'config.SEED_VALUE': found no =; allowed: key=value"],
    ),
    "an interpolation that leads nowhere": (
        ["config.CLUSTERFIT.OUTPUT_DIR='${config.CHECKPOINT.FOLDER}'"],
        ["The config cannot be composed: Interpolation key 'config.CHECKPOINT.FOLDER' not found"],
    ),
    "two configs": (
        ["config=pretrain/simclr/simclr_8node_resnet"],
        ["The command: found 2 configs: config=test/", "allowed: config=<name>"],
    ),
    "an = in a path": (
        ["config.CLUSTERFIT.OUTPUT_DIR=runs/config.CLUSTERFIT.SEED=0"],
        [
            "config.CLUSTERFIT.OUTPUT_DIR: found runs/",
            "\"config.CLUSTERFIT.OUTPUT_DIR='runs/config.CLUSTERFIT.SEED=0'\"",
        ],
    ),
    "brackets in a path": (
        ["config.DATA.TRAIN.DATA_PATHS=[a(1)/b]"],
        ["config.DATA.TRAIN.DATA_PATHS: found [a(1)/b]", "\"config.DATA.TRAIN.DATA_PATHS=['a(1)/b']\""],
    ),
    "spaces around the =": (
        ["config.CLUSTERFIT.NUM_CLUSTERS = 200"],
        ["found spaces around the =", '"config.CLUSTERFIT.NUM_CLUSTERS=200"'],
    ),
    "spaces around the =, which a shell has cut": (
        ["config.CLUSTERFIT.NUM_CLUSTERS", "=", "200"],
        ["'config.CLUSTERFIT.NUM_CLUSTERS': found no =", '"config.CLUSTERFIT.NUM_CLUSTERS=200"'],
    ),
    "a space after the =": (
        ["config.CLUSTERFIT.NUM_CLUSTERS=", "200"],
        ["'200': found no =", '"config.CLUSTERFIT.NUM_CLUSTERS=200"'],
    ),
}


@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_gets_one_message(refuse, overrides, fragments):
    require_refusal(refuse(*overrides), *fragments)


@pytest.mark.parametrize(
    ("tag", "fragment"),
    [
        ("!!python/object/apply:os.mkdir [trapped]", "could not determine a constructor for the tag"),
        ("!!python/name:os.system", "could not determine a constructor for the tag"),
        ("!!python/object/apply:pathlib.PosixPath [x]", "config.CHECKPOINT.DIR: found PosixPath('x'), made by a tag"),
        ("!!binary YWJj", "config.CHECKPOINT.DIR: found b'abc', made by a tag"),
    ],
)
def test_a_config_with_tags_gets_one_message(run_command, tmp_path, tag, fragment):
    (tmp_path / "configs/config").mkdir(parents=True)
    defaults = "defaults:\n  - /config/test/cpu_test/test_cpu_resnet_simclr\n  - _self_\n"
    text = f"# @package _global_\n{defaults}config:\n  CHECKPOINT:\n    DIR: {tag}\n"
    (tmp_path / "configs/config/mine.yaml").write_text(text)
    require_refusal(run_command("config=mine", cwd=tmp_path), fragment)
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


@pytest.mark.parametrize(
    "command, fragment",
    [
        ([], "The command: found no config; allowed: config=<name>"),
        (
            ["config=clusterfit/study/own_teacher", "study.folder=s"],
            "study.pretrain, study.train, study.validation, study.test, study.teacher: found nothing (???)",
        ),
        (
            [
                "config=clusterfit/study/label_noise",
                "study.folder=s",
                "config.STUDY.METHODS.teacher, twice as long.EPOCHS=3",
            ],
            '"config.STUDY.METHODS={teacher\\, twice as long:{EPOCHS:3}}"',
        ),
        (["config=clusterfit/no_such_config"], "config=clusterfit/no_such_config: found no such config"),
        (
            ["config=clusterfit/student", "+config/clusterfit=no_such"],
            "+config/clusterfit=no_such: found no such config",
        ),
    ],
)
def test_a_command_without_a_config_gets_one_message(run_command, tmp_path, command, fragment):
    require_refusal(run_command(*command, cwd=tmp_path), fragment)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_config_gets_one_message(run_command, tmp_path):
    (tmp_path / "configs/config").mkdir(parents=True)
    (tmp_path / "configs/config/mine.yaml").write_text("config:\n  SEED_VALUE: 1\n  SEED_VALUE: 2\n")
    require_refusal(
        run_command("config=mine", cwd=tmp_path), "The config cannot be composed:", "SEED_VALUE", "mine.yaml"
    )
