"""``benchmark/nearest_neighbor/…`` on a student's checkpoint, through the real command."""

import shutil

import numpy as np
import pytest
import torch
from benchmark_data import ON_THIS_MACHINE, SMALL_IMAGES, write_classes
from checkpoint_parts import trunk_of
from results_file import rows_in

from vissl_clusterfit.features.store import FeatureStore

KNN = (
    "config=benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN",
    *ON_THIS_MACHINE,
    *SMALL_IMAGES,
    "config.NEAREST_NEIGHBOR.TOPK=7",
    "config.NEAREST_NEIGHBOR.L2_NORM_FEATS=true",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two splits of six classes; the test split has fewer images than VISSL's script can cut into its 100 pieces."""
    folder = tmp_path_factory.mktemp("classes")
    return write_classes(folder / "train", 60, 6, seed=0), write_classes(folder / "test", 40, 6, seed=1)


@pytest.fixture
def knn(run_command, data, teacher, tmp_path):
    """Runs the benchmark. The checkpoint is one of a student, with the classifier of pseudo-labels as its head."""

    def run(*overrides: str, train=data[0], test=data[1], weights=teacher):
        return run_command(
            *KNN,
            f"config.DATA.TRAIN.DATA_PATHS=[{train}]",
            f"config.DATA.TEST.DATA_PATHS=[{test}]",
            f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *overrides,
            cwd=tmp_path,
        )

    return run


def by_hand(folder, num_neighbors: int, temperature: float) -> dict[str, float]:
    """Top-1 and top-5 of the features on disk, by the formula; images lie in the order of their classes."""
    stores = [FeatureStore.open(folder / "run/features" / split) for split in ("train", "test")]
    gallery, queries = (store.take(np.arange(store.num_samples)).astype(np.float64) for store in stores)
    labels, expected = (np.sort(np.arange(store.num_samples) % 6) for store in stores)
    gallery, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (gallery, queries))
    hits = np.zeros(2)
    on_the_grid = np.round(queries @ gallery.T * 2**30) / 2**30
    for cosines, wanted in zip(on_the_grid, expected, strict=True):
        nearest = np.argsort(-cosines, kind="stable")[:num_neighbors]
        votes = np.bincount(labels[nearest], weights=np.exp(cosines[nearest] / temperature), minlength=6)
        rank = list(np.argsort(-votes, kind="stable")).index(wanted) if votes[wanted] else 6
        hits += [rank < 1, rank < 5]
    return dict(zip(("top-1 accuracy", "top-5 accuracy"), hits / len(queries), strict=True))


def test_the_students_trunk_is_evaluated(knn, tmp_path):
    result = knn("+config.BENCHMARK.MODEL_NAME=student")
    assert result.returncode == 0, result.stderr
    said = result.stdout + result.stderr
    assert "engine_name: 'train' becomes 'clusterfit_nearest_neighbor'" in said
    assert "config.DISTRIBUTED.BACKEND: 'nccl' becomes 'gloo'" in said
    assert "has no projection head, only the classifier of pseudo-labels" in said
    found = rows_in(tmp_path / "run")
    assert {row["metric"]: row["value"] for row in found} == pytest.approx(by_hand(tmp_path, 7, 0.1))
    for row in found:
        assert (row["model"], row["dataset"], row["split"], row["seed"]) == ("student", "imagenet1k_folder", "test", 0)
        assert row["benchmark"] == "nearest neighbours, trunk"
        assert (
            "exact kNN on frozen features scaled to unit L2 norm; the 7 samples of the training split"
            in row["protocol"]
        )
    assert 0.15 < found[0]["value"] < found[1]["value"] <= 1


@pytest.mark.slow
def test_two_processes_give_the_same_rows(knn, tmp_path):
    assert knn().returncode == 0
    found = rows_in(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    result = knn("config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    assert result.returncode == 0, result.stderr
    assert rows_in(tmp_path / "run") == found


def test_a_head_that_was_trained_is_what_vissl_evaluates(knn, tmp_path, model_config, data):
    """A projection head in the file is used; the features are those that VISSL's own network gives."""
    from PIL import Image
    from torchvision.transforms.functional import to_tensor
    from vissl.config import AttrDict
    from vissl.models import build_model
    from vissl.utils.checkpoint import init_model_from_consolidated_weights

    from vissl_clusterfit.launch.compose.compose import compose

    model = compose([*KNN, f"config.CHECKPOINT.DIR={tmp_path}"])[2]
    torch.manual_seed(3)
    trained = build_model(model.MODEL, AttrDict({}))
    state = {"classy_state_dict": {"base_model": {"model": trained.get_classy_state()["model"]}}}
    torch.save(state, tmp_path / "simclr.torch")
    result = knn(weights=tmp_path / "simclr.torch")
    assert result.returncode == 0, result.stderr
    assert rows_in(tmp_path / "run")[0]["benchmark"] == "nearest neighbours, heads"

    model.MODEL.WEIGHTS_INIT.PARAMS_FILE = "simclr.torch"
    vissls = build_model(model.MODEL, AttrDict({}))
    init_model_from_consolidated_weights(model, vissls, state, "classy_state_dict", ["num_batches_tracked"])
    files = sorted(data[1].rglob("*.png"))[:4]
    images = torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        [expected] = vissls.eval()(images)
    np.testing.assert_allclose(FeatureStore.open(tmp_path / "run/features/test").read(0, 4), expected, atol=1e-5)


def test_unscaled_features_and_few_classes(knn, tmp_path):
    """What VISSL's config says by default, and three classes, where VISSL's script fails."""
    folders = [write_classes(tmp_path / name, 12, 3, seed=0) for name in ("few", "fewer")]
    result = knn("config.NEAREST_NEIGHBOR.L2_NORM_FEATS=false", train=folders[0], test=folders[1])
    assert result.returncode == 0, result.stderr
    assert "no top-5 accuracy" in result.stdout + result.stderr
    [row] = rows_in(tmp_path / "run")
    assert row["metric"] == "top-1 accuracy"
    assert "features as they are; the 7 samples of the training split with the greatest dot product" in row["protocol"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["config.NEAREST_NEIGHBOR.TOPK=61"], "config.NEAREST_NEIGHBOR.TOPK: found 61; allowed: 1 to 60"),
        (["config.NEAREST_NEIGHBOR.SIGMA=0"], "config.NEAREST_NEIGHBOR.SIGMA: found 0.0; allowed: above 0"),
        (["config.DATA.TEST.DATA_LIMIT=5"], "config.DATA.TEST.DATA_LIMIT: found 5, for an engine that takes"),
        (["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=8"], "fits the trunk only in part"),
        (["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=8"], "Make config.MODEL the network that was trained."),
        (["+config.BENCHMARK.MODELNAME=x"], "config.BENCHMARK.MODELNAME: found an unknown key"),
    ],
)
def test_mistakes_are_told_in_one_message(knn, tmp_path, overrides, message):
    result = knn(*overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run/results.json").exists()


def test_class_folders_that_one_split_lacks_are_refused(knn, data, tmp_path):
    """They would be numbered differently: the images of TRAIN, as TEST without one class, would be half wrong."""
    part = tmp_path / "part"
    part.mkdir()
    for name in ("class0", "class2", "class3"):
        (part / name).symlink_to(data[0] / name)
    result = knn("config.NEAREST_NEIGHBOR.TOPK=1", test=part)
    assert result.returncode == 2
    assert "config.DATA.TEST.DATA_PATHS: found no folder class1, class4, class5, which TRAIN has" in result.stderr
    assert not (tmp_path / "run/results.json").exists()


def test_a_row_says_of_how_many_samples_it_is(knn, data, tmp_path):
    test = tmp_path / "test"
    shutil.copytree(data[1], test)
    sorted(test.rglob("*.png"))[5].write_bytes(b"")
    result = knn(test=test)
    assert result.returncode == 0, result.stderr
    said = "output of the trunk; 39 of 40 test samples and 60 of 60 training samples, the others could not be read; "
    assert all(row["protocol"].startswith(said) for row in rows_in(tmp_path / "run"))


def test_one_of_several_networks_is_chosen_by_its_prefix(knn, teacher, tmp_path):
    """As of MoCo, whose file has the encoder of the queries and that of the keys."""
    trunk = trunk_of(torch.load(teacher))
    both = {
        f"module.encoder_{which}.{name}": tensor * factor if name.endswith("conv1.weight") else tensor
        for which, factor in (("k", -0.5), ("q", 1.0))
        for name, tensor in trunk.items()
    }
    torch.save({"state_dict": both}, tmp_path / "moco.torch")
    layer = [
        f"config.MODEL.FEATURE_EVAL_SETTINGS.{setting}"
        for setting in (
            "EVAL_MODE_ON=true",
            "FREEZE_TRUNK_ONLY=true",
            'LINEAR_EVAL_FEAT_POOL_OPS_MAP=[["res5",["AdaptiveAvgPool2d",[[1,1]]]]]',
        )
    ]
    refused = knn(*layer, weights=tmp_path / "moco.torch")
    assert refused.returncode == 2
    assert "config.MODEL.WEIGHTS_INIT.REMOVE_PREFIX" in refused.stderr
    assert "CLUSTERFIT.TEACHER" not in refused.stderr
    assert "Traceback" not in refused.stderr
    name = "config.MODEL.WEIGHTS_INIT.REMOVE_PREFIX=module.encoder_q."
    chosen = knn(*layer, name, weights=tmp_path / "moco.torch")
    assert chosen.returncode == 0, chosen.stderr
    features = FeatureStore.open(tmp_path / "run/features/test").read(0, 40)
    shutil.rmtree(tmp_path / "run")
    assert knn(*layer).returncode == 0
    np.testing.assert_array_equal(features, FeatureStore.open(tmp_path / "run/features/test").read(0, 40))


def test_a_checkpoint_without_a_trunk_is_refused(knn, tmp_path):
    torch.save(
        {"classy_state_dict": {"base_model": {"model": {"heads": {"0.w": torch.ones(2)}}}}}, tmp_path / "h.torch"
    )
    result = knn(weights=tmp_path / "h.torch")
    assert result.returncode == 2
    assert result.stderr.count("h.torch holds no tensor of the trunk.") == 1
    assert "Traceback" not in result.stderr
