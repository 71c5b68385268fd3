import dataclasses
import re

import pytest
import yaml

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.search_path import config_dir
from vissl_clusterfit.errors import ConfigError


def problems_of(block) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        ClusterFitConfig.from_block(block)
    return str(caught.value).splitlines()


def test_vissls_own_block_is_taken_as_it_is():
    block = {
        "OUTPUT_DIR": "out",
        "NUM_ITER": 20,
        "NUM_CLUSTERS": 10,
        "DATA_LIMIT": -1,
        "DATA_LIMIT_SAMPLING": {"SEED": 3},
        "CLUSTER_BACKEND": "faiss",
        "FEATURES": {"EXTRACT": True, "PATH": "feats", "LAYER_NAME": "res5", "DIMENSIONALITY_REDUCTION": 64},
    }
    settings = ClusterFitConfig.from_block(block)
    assert (settings.num_iter, settings.num_clusters, settings.data_limit_sampling.seed) == (20, 10, 3)
    assert settings.features.dimensionality_reduction == 64
    assert str(settings.paths.labels("TRAIN")) == "out/labels/train"
    assert str(settings.paths.features("TEST")) == "feats/test"
    assert settings.splits == ("TRAIN", "TEST")


def test_all_problems_come_in_one_message():
    problems = problems_of(
        {"NUM_CLUSTER": 10, "NUM_ITER": "many", "METRIC": "l1", "FEATURES": {"BATCH_SIZE": 0, "EXTRACT": 1}}
    )
    assert len(problems) == 5
    assert "CLUSTERFIT.NUM_CLUSTER: found an unknown key" in problems[0]
    assert "Did you mean NUM_CLUSTERS?" in problems[0]
    assert problems[1] == "config.CLUSTERFIT.NUM_ITER: found 'many'; allowed: a value of type int."
    assert problems[2] == "config.CLUSTERFIT.METRIC: found 'l1'; allowed: 'l2' | 'cosine'."
    assert {line.split(":")[0] for line in problems[3:]} == {
        "config.CLUSTERFIT.FEATURES.BATCH_SIZE",
        "config.CLUSTERFIT.FEATURES.EXTRACT",
    }


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"FEATURES": {"WHITEN": True}}, "WHITEN: found true without DIMENSIONALITY_REDUCTION"),
        ({"DATA_LIMIT": 5, "NUM_CLUSTERS": 6}, r"DATA_LIMIT: found 5, less than NUM_CLUSTERS \(6\)"),
        (
            {"NUM_CLUSTERS": 6, "NUM_COARSE_CLUSTERS": 6},
            r"NUM_COARSE_CLUSTERS: found 6, not less than NUM_CLUSTERS \(6\)",
        ),
        ({"NUM_COARSE_CLUSTERS": -1}, "NUM_COARSE_CLUSTERS: found -1; allowed: at least 0"),
        ({"NUM_COARSE_CLUSTERS": 9, "START": "run/codebook"}, "START: found 'run/codebook' with NUM_COARSE_CLUSTERS"),
        ({"FEATURES": {"TEST_PARTITION": "TRAIN"}}, "TEST_PARTITION: found 'TRAIN', which is also"),
        ({"FEATURES": None}, r"CLUSTERFIT\.FEATURES: found None; allowed: a mapping"),
        ({"CLUSTER_BACKEND": "sklearn"}, r"CLUSTER_BACKEND: found 'sklearn'; allowed: 'faiss' \| 'torch'"),
        ({"START": 3}, "START: found 3; allowed: a value of type str"),
        ({"INITIALIZATION": 3}, "INITIALIZATION: found 3; allowed: a value of type str"),
        ({"START": "a", "INITIALIZATION": "b"}, "START: found 'a', and .*INITIALIZATION 'b'; allowed: one value"),
        (
            {"MAX_CLUSTER_SIZE": 0.5},
            r"MAX_CLUSTER_SIZE: found 0\.5; allowed: 0 for no bound, or 1 to 1000000",
        ),
        ({"MAX_CLUSTER_SIZE": float("nan")}, "MAX_CLUSTER_SIZE: found nan; allowed: 0 for no bound"),
        ({"SEED": True}, "SEED: found True; allowed: a value of type int"),
        (
            {"FEATURES": {"MAX_UNREADABLE": 1.5}},
            r"MAX_UNREADABLE: found 1\.5; allowed: at least 0\.0 and at most",
        ),
    ],
)
def test_one_problem(block, message):
    with pytest.raises(ConfigError, match=message):
        ClusterFitConfig.from_block(block)


@pytest.mark.parametrize(
    ("block", "start", "growing"),
    [
        ({"INITIALIZATION": "random", "MINIBATCHES": False}, "random", False),
        ({"START": "random", "GROWING_SAMPLE": False}, "random", False),
        # As the YAML has them, where one of the two is given on the command line.
        ({"START": "random", "INITIALIZATION": "k-means++"}, "random", True),
        ({"START": "random", "INITIALIZATION": "random"}, "random", True),
    ],
)
def test_two_keys_have_another_name(block, start, growing):
    settings = ClusterFitConfig.from_block(block)
    assert (settings.start, settings.growing_sample) == (start, growing)


def test_the_yaml_has_every_key_and_the_same_defaults():
    """The YAML exists so that keys can be given on the command line; the values are those of the dataclasses."""
    block = yaml.safe_load((config_dir() / "config/clusterfit/defaults.yaml").read_text())["config"]["CLUSTERFIT"]
    # These are set by the YAML for a run of all stages: VISSL's own defaults for them are kept in the dataclass.
    ours = {
        "OUTPUT_DIR",
        "FEATURES.PATH",
        "FEATURES.EXTRACT",
        "FEATURES.TEST_PARTITION",
        "FEATURES.TRANSFORMS",
    }
    for key, alias in (("START", "INITIALIZATION"), ("GROWING_SAMPLE", "MINIBATCHES")):
        assert block[key] == f"${{config.CLUSTERFIT.{alias}}}"
        block[key] = block.pop(alias)
    assert _flat(block).keys() == _flat(_as_block(ClusterFitConfig())).keys() | {"FEATURES.TRANSFORMS"}
    differing = {key for key, value in _flat(_as_block(ClusterFitConfig())).items() if _flat(block)[key] != value}
    jobs = {key for key in differing if re.match(r"SLURM\.[A-Z]+\.", key)}
    # A stage asks SLURM for what the run asks for.
    assert {key: _flat(block)[key].rpartition(".")[2] for key in jobs} == {
        key: f"{key.rpartition('.')[2]}}}" for key in jobs
    }
    assert differing - jobs <= ours


def _as_block(settings) -> dict:
    return {
        field.name.upper(): _as_block(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(settings)
        for value in [getattr(settings, field.name)]
    }


def _flat(block: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in block.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
