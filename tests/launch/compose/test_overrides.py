"""What is misspelt on the command line or in a config is refused with the name that was meant."""

from pathlib import Path

import hydra
import pytest
import vissl.config
from classy_vision.losses import LOSS_REGISTRY
from hydra import initialize_config_module
from omegaconf import OmegaConf
from repository import ROOT
from vissl.config import AttrDict
from vissl.utils.hydra_config import convert_to_attrdict

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.compose.compose import _as_vissl_takes_it as _args
from vissl_clusterfit.launch.compose.overrides import _compose, compose_file, compose_overrides
from vissl_clusterfit.launch.compose.parsed_overrides import parse_overrides

SIMCLR = "config=test/cpu_test/test_cpu_resnet_simclr"
STUDENT = (SIMCLR, "+config/clusterfit=student")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["config=clusterfit/quickstrt/teacher"],
            r"no such config; .* Did you mean config=clusterfit/quickstart/teacher",
        ),
        (
            ["config=pretrain/simclr/simclr_8node_resnt"],
            r"no such config; .* Did you mean config=pretrain/simclr/simclr_8node_resnet",
        ),
        (["config=simclr_8node_resnet"], r"Did you mean config=pretrain/simclr/simclr_8node_resnet"),
        ([SIMCLR, "+config/clusterfit=studnet"], r"no such config; .* Did you mean \+config/clusterfit=student"),
        ([SIMCLR, "+config/clusterfti=student"], r"the group config/clusterfti, .* Did you mean \+config/clusterfit=…"),
        ([SIMCLR, "+config/typo=x"], r"\+config/typo=x: found the group config/typo, which does not exist"),
        ([SIMCLR, "config.OPTIMIZER.num_epoch=3"], r"does not exist; .* Did you mean config.OPTIMIZER.num_epochs\?"),
        ([SIMCLR, "config.OPTIMIZER={num_epoch:3}"], r"does not exist; .* Did you mean config.OPTIMIZER.num_epochs\?"),
        ([SIMCLR, "config.COLLATE_FUNCTION=x"], r"Did you mean config.DATA.TRAIN.COLLATE_FUNCTION or"),
        ([SIMCLR, "~config.SEED_VALU"], r"Did you mean config.SEED_VALUE\?"),
        ([SIMCLR, "+config.OPTIMIZER.num_epoch=3"], r"which nothing reads; allowed: config.OPTIMIZER.num_epochs\."),
        ([SIMCLR, "+config.OPTIMIZR.num_epochs=3"], r"config.OPTIMIZR, which nothing reads; allowed: config.OPTIMIZER"),
        (
            [SIMCLR, "+config.optimizer.num_epochs=3"],
            r"allowed: config.OPTIMIZER\. .* insist with \+\+config.optimizer=",
        ),
        ([*STUDENT, "+config.CLUSTERFIT.NUM_CLUSTER=5"], r"allowed: config.CLUSTERFIT.NUM_CLUSTERS"),
        ([SIMCLR, "+confg.SEED_VALUE=3"], r"confg, which nothing reads; allowed: config\."),
        ([SIMCLR, "+engine_nam=x"], r"engine_nam, which nothing reads; allowed: engine_name\."),
        ([SIMCLR, "+config.X=???"], r"config.X: found nothing \(\?\?\?\)"),
        ([SIMCLR, "+config.X=[[{a: '${config.SEED_VALU}'}]]"], r"Interpolation key 'config.SEED_VALU' not found"),
        ([SIMCLR, "=3"], r"'=3': found no key"),
    ],
)
def test_what_is_misspelt_is_refused_with_the_nearest_name(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_overrides(overrides)


def test_a_key_of_ones_own_is_taken():
    config = compose_overrides([SIMCLR, "+config.MINE={a:1}", "config.MINE.a=2", "+config.OPTIMIZER.warm_restarts=3"])
    assert config["config"]["MINE"] == {"a": 2}
    assert config["config"]["OPTIMIZER"]["warm_restarts"] == 3


def test_a_key_beside_a_very_similar_one_is_taken_from_one_who_insists():
    config = compose_overrides([SIMCLR, "++config.OPTIMIZER.num_epoch=3"])["config"]
    assert config["OPTIMIZER"]["num_epoch"] == 3


def test_interpolations_in_overrides_and_in_lists_are_resolved():
    overrides = ["config.SEED_VALUE=7", "+config.X=['${config.SEED_VALUE}',[{a: '${config.SEED_VALUE}'}]]"]
    config = compose_overrides([SIMCLR, *overrides, "config.LOG_FREQUENCY=${config.SEED_VALUE}"])["config"]
    assert config["X"] == [7, [{"a": 7}]]
    assert config["LOG_FREQUENCY"] == 7


@pytest.mark.parametrize(
    "overrides",
    [
        ["config.OPTIMIZER.num_epochs=3", *STUDENT, "engine_name=clusterfit_label", "node_id=1"],
        [*STUDENT, "config.DATA.TRAIN={DATA_PATHS:[a,b],DATASET_NAMES:[x]}", "+config.MINE={a:1}", "++config.MINE.b=2"],
        [*STUDENT, "+config.MINE=1", "config.MINE=2", "~config.DATA.TRAIN.DATA_LIMIT_SAMPLING"],
        [
            "config=clusterfit/study/label_noise",
            "config/clusterfit/study/data=images",
            "~config.STUDY.METHODS",
        ],
        [
            f"hydra.searchpath=[file://{ROOT}/configs]",
            SIMCLR,
            "config.LOG_FREQUENCY=${config.SEED_VALUE}",
            "+mine={A:1}",
        ],
    ],
)
def test_settings_over_what_the_files_say_are_what_hydra_makes_of_all_at_once(overrides):
    with initialize_config_module(config_module=vissl.config.__name__, version_base="1.3"):
        expected = hydra.compose("defaults", overrides=overrides)
    kept = OmegaConf.to_container(compose_file("defaults", STUDENT))
    assert _compose(parse_overrides(overrides)) == expected
    assert OmegaConf.to_container(compose_file("defaults", STUDENT)) == kept


def test_the_config_is_the_one_that_vissl_makes_of_it(tmp_path):
    overrides = [*STUDENT, f"config.CHECKPOINT.DIR={tmp_path}", "config.DATA.TRAIN.DATA_PATHS=[a]"]
    plain = compose_overrides([*overrides, "config.DATA.TEST.DATA_PATHS=${config.DATA.TRAIN.DATA_PATHS}"])
    written = {}
    for name, make in (
        ("vissl", lambda: convert_to_attrdict(OmegaConf.create(plain))[0]),
        ("ours", lambda: _args(plain)),
    ):
        args = make()
        written[name] = args, (tmp_path / "train_config.yaml").read_text()
    assert written["ours"] == written["vissl"]
    assert all(type(args.config.DATA.TRAIN) is AttrDict for args, _ in written.values())


@pytest.fixture
def own_configs(tmp_path, monkeypatch):
    """Writes a config of the user's into ``./configs/config/mine/``, where VISSL has Hydra look, too."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs/config/mine"
    folder.mkdir(parents=True)

    def write(name: str, text: str) -> None:
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}")

    return write


def test_configs_of_the_working_directory_are_found_and_proposed(own_configs):
    own_configs("recipe", "config:\n  OPTIMIZER:\n    num_epochs: 3\n  MINE: 4\n")
    config = compose_overrides([SIMCLR, "+config/mine=recipe"])["config"]
    assert (config["OPTIMIZER"]["num_epochs"], config["MINE"]) == (3, 4)
    with pytest.raises(ConfigError, match=r"Did you mean \+config/mine=recipe\?"):
        compose_overrides([SIMCLR, "+config/mine=recpie"])


def test_configs_of_a_folder_that_is_named_are_found_and_proposed(own_configs, tmp_path, monkeypatch):
    own_configs("recipe", "config:\n  MINE: 4\n")
    place = f"hydra.searchpath=[file://{tmp_path}/configs]"
    monkeypatch.chdir("/")
    assert compose_overrides([SIMCLR, place, "+config/mine=recipe"])["config"]["MINE"] == 4
    with pytest.raises(ConfigError, match=r"Did you mean \+config/mine=recipe\?"):
        compose_overrides([SIMCLR, place, "+config/mine=recpie"])


def test_a_file_that_changes_is_read_again_and_what_is_only_packaged_is_composed_once(
    own_configs, tmp_path, monkeypatch
):
    for folder, place in ((tmp_path, []), (Path("/"), [f"hydra.searchpath=[file://{tmp_path}/configs]"])):
        monkeypatch.chdir(folder)
        for number in (4, 5):
            own_configs("recipe", f"config:\n  MINE: {number}\n")
            composed = compose_file("defaults", [SIMCLR, *place, "+config/mine=recipe"])
            assert composed.config["MINE"] == number
    assert compose_file("defaults", STUDENT) is compose_file("defaults", STUDENT)
    for folder in (tmp_path, ROOT):
        monkeypatch.chdir(folder)
        assert (compose_file("defaults", STUDENT) is compose_file("defaults", STUDENT)) == (folder == ROOT)


def test_a_misspelt_key_in_a_file_is_refused(own_configs):
    own_configs("recipe", "config:\n  OPTIMIZER:\n    num_epoch: 3\n")
    with pytest.raises(ConfigError, match=r"config.OPTIMIZER.num_epoch, which nothing reads; allowed: .*num_epochs"):
        compose_overrides([SIMCLR, "+config/mine=recipe"])
    config = compose_overrides([SIMCLR, "+config/mine=recipe", "++config.OPTIMIZER.num_epoch=4"])["config"]
    assert config["OPTIMIZER"]["num_epoch"] == 4


def test_a_missing_config_that_a_file_inherits_is_named(own_configs):
    own_configs("recipe", "defaults:\n  - /config/clusterfit/studnet\n  - _self_\n")
    with pytest.raises(ConfigError, match=r"'config/clusterfit/studnet'. Did you mean config/clusterfit/student"):
        compose_overrides([SIMCLR, "+config/mine=recipe"])


def test_the_block_of_a_loss_of_ones_own_may_be_named_like_vissls(own_configs, monkeypatch):
    monkeypatch.setitem(LOSS_REGISTRY, "simclr_info_nce_loss_2", LOSS_REGISTRY["simclr_info_nce_loss"])
    own_configs("loss", "config:\n  LOSS:\n    name: simclr_info_nce_loss_2\n    simclr_info_nce_loss_2:\n      a: 1\n")
    assert compose_overrides([SIMCLR, "+config/mine=loss"])["config"]["LOSS"]["simclr_info_nce_loss_2"] == {"a": 1}


@pytest.mark.parametrize("data", ["digits", "images"])
def test_the_pixels_of_a_study_have_only_the_trunks_output_whatever_layer_the_data_names(data):
    folders = [f"study.{key}=x" for key in ("folder", "pretrain", "train", "validation", "test")]
    given = folders if data == "images" else folders[:1]
    study = ["config=clusterfit/study/label_noise", f"config/clusterfit/study/data={data}", *given]
    network = compose_overrides(study)["config"]["STUDY"]["METHODS"]["raw_pixels"]["NETWORK"]
    config = compose_overrides([*study, *network])["config"]
    assert config["MODEL"]["TRUNK"]["NAME"] == "raw_pixels"
    assert config["TRANSFER"]["FEATURES"]["LAYER_NAME"] == ""


def test_every_method_of_a_study_is_changed_by_its_key():
    study = ["config=clusterfit/study/label_noise", "study.folder=s"]
    keys = compose_overrides(study)["config"]["STUDY"]["METHODS"].keys()
    changed = compose_overrides([*study, *(f"+config.STUDY.METHODS.{key}.SHOWN=false" for key in keys)])
    methods = changed["config"]["STUDY"]["METHODS"]
    assert list(methods) == list(keys)
    assert not any(method["SHOWN"] for method in methods.values())
    assert methods["teacher_twice"]["NAME"] == "teacher, twice as long"
