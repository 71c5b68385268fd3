"""VISSL's SVM benchmarks on a student's checkpoint, through the real command, in VISSL's layout of VOC07."""

import numpy as np
import pytest
import torch
from benchmark_data import ON_THIS_MACHINE, SMALL_IMAGES, voc_overrides, write_voc
from results_file import rows_in

from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.verification.verify import verify_artifacts

LAYERS = (
    "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP="
    "[[res4,[AvgPool2d,[[2,2],1,0]]],[res5,[Identity,[]]]]"
)
# The primal form draws nothing at random, so that VISSL's SVMs can be held against ours.
SVM = (
    "config=benchmark/linear_image_classification/voc07/eval_resnet_8gpu_transfer_voc07_svm",
    *ON_THIS_MACHINE,
    *SMALL_IMAGES,
    LAYERS,
    "config.SVM.costs.costs_list=[0.1,1.0]",
    "config.SVM.dual=false",
)
LOW_SHOT = (
    "config=benchmark/low_shot_transfer/voc07/eval_resnet_8gpu_transfer_voc07_low_shot_svm",
    *SVM[1:],
    "config.SVM.low_shot.k_values=[1,2]",
    "config.SVM.low_shot.sample_inds=[1,2,3]",
)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    return write_voc(folder / "train", 48, 3, seed=0), write_voc(folder / "test", 30, 3, seed=1)


@pytest.fixture
def benchmark(run_command, voc, teacher, tmp_path):
    def run(*overrides: str):
        return run_command(
            *overrides[: 1 + len(ON_THIS_MACHINE)],
            *voc_overrides(*voc),
            f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *overrides[1 + len(ON_THIS_MACHINE) :],
            cwd=tmp_path,
        )

    return run


def layers_of(folder) -> dict[str, list[np.ndarray]]:
    """The features of both splits, layer by layer: res4 has 1024 channels in one place (2 x 2 pooled), res5 2048."""
    stores = [FeatureStore.open(folder / "run/features" / split) for split in ("train", "test")]
    all_rows = [store.take(np.arange(store.num_samples)) for store in stores]
    width = all_rows[0].shape[1] - 2048
    return {"res4": [part[:, :width] for part in all_rows], "res5": [part[:, width:] for part in all_rows]}


def test_the_figures_are_vissls(benchmark, voc, tmp_path):
    """VISSL's trainer, on the features that we extracted, and with VISSL's own block ``config.SVM``."""
    from vissl_svm import SVMTrainer

    from vissl_clusterfit.launch.compose.compose import compose

    result = benchmark(*SVM)
    assert result.returncode == 0, result.stderr
    assert "engine_name: 'train' becomes 'clusterfit_svm'" in result.stdout
    found = {row["benchmark"]: row for row in rows_in(tmp_path / "run")}
    assert list(found) == ["SVM, res4", "SVM, res5"]
    settings = compose([*SVM, f"config.CHECKPOINT.DIR={tmp_path}"])[2].SVM
    targets = [np.load(lists[1]) for lists in voc]
    for layer, (train, test) in layers_of(tmp_path).items():
        trainer = SVMTrainer(settings, layer=layer, output_dir=str(tmp_path / "vissl"))
        trainer.costs_list = [0.1, 1.0]
        trainer.train(train, targets[0])
        trainer.test(test, targets[1])
        theirs = np.load(tmp_path / f"vissl/{layer}/test_ap.npy").mean()
        assert found[f"SVM, {layer}"]["value"] == pytest.approx(theirs, abs=1e-9)
        assert 0.3 < theirs < 1
    assert (found["SVM, res5"]["metric"], found["SVM, res5"]["dataset"]) == ("mAP", "voc2007")
    assert "layer res4, AvgPool2d([2, 2], 1, 0), flattened" in found["SVM, res4"]["protocol"]


@pytest.mark.slow
def test_a_second_run_takes_what_is_done_and_two_processes_agree(benchmark, tmp_path):
    assert benchmark(*SVM).returncode == 0
    found = rows_in(tmp_path / "run")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/svm").rglob("*.json")}
    assert len(kept) == 8  # each class of both layers, and their means
    lost = [tmp_path / f"run/svm/res5/{name}.json" for name in ("class_1", "svm")]
    for file in lost:
        file.unlink()
    (tmp_path / "run/results.json").unlink()
    again = benchmark(*SVM, "config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    assert again.returncode == 0, again.stderr
    assert rows_in(tmp_path / "run") == found
    changed = {file for file, time in kept.items() if file.stat().st_mtime_ns != time}
    assert changed == {*lost}


def test_the_layers_are_those_of_vissls_network(benchmark, voc, teacher, tmp_path):
    from PIL import Image
    from torchvision.transforms.functional import resize, to_tensor
    from vissl.config import AttrDict
    from vissl.models import build_model
    from vissl.utils.checkpoint import init_model_from_consolidated_weights

    from vissl_clusterfit.launch.compose.compose import compose

    assert benchmark(*SVM).returncode == 0
    config = compose([*SVM, f"config.CHECKPOINT.DIR={tmp_path}"])[2]
    network = build_model(config.MODEL, AttrDict({}))
    state = torch.load(teacher)
    init_model_from_consolidated_weights(config, network, state, "classy_state_dict", ["num_batches_tracked"])
    files = [str(file) for file in np.load(voc[0][0])[:5]]
    images = torch.stack([to_tensor(resize(Image.open(file).convert("RGB"), [32, 32])) for file in files])
    with torch.no_grad():
        expected = network.eval()(images)
    for layer, wanted in zip(layers_of(tmp_path).values(), expected, strict=True):
        np.testing.assert_allclose(layer[0][:5], wanted, atol=1e-5)


def test_low_shot_gives_mean_and_range(benchmark, voc, tmp_path):
    """The mean over the draws is that of VISSL's trainer on the same draws."""
    from vissl_svm import SVMLowShotTrainer

    from vissl_clusterfit.launch.compose.compose import compose
    from vissl_clusterfit.transfer.low_shot_svm import draw_targets

    result = benchmark(*LOW_SHOT)
    assert result.returncode == 0, result.stderr
    assert "'clusterfit_low_shot_svm'" in result.stdout
    found = {(row["benchmark"], row["metric"]): row["value"] for row in rows_in(tmp_path / "run")}
    assert len(found) == 2 * 2 * 5  # layers, k, metrics
    settings = compose([*LOW_SHOT, f"config.CHECKPOINT.DIR={tmp_path}"])[2].SVM
    train, test = layers_of(tmp_path)["res5"]
    targets = [np.load(lists[1]) for lists in voc]
    trainer = SVMLowShotTrainer(settings, layer="res5", output_dir=str(tmp_path / "vissl"))
    for draw in (1, 2, 3):
        trainer.train(train, draw_targets(targets[0], 2, (0, draw, 2)), draw, 2)
        trainer.test(test, targets[1], draw, 2)
    theirs = trainer.aggregate_stats([2], [1, 2, 3])["k=2"]
    name = "low-shot SVM, k = 2, res5"
    ours = {
        "mean": found[name, "mAP, mean of the draws"],
        "min": found[name, "mAP, least of the draws"],
        "max": found[name, "mAP, greatest of the draws"],
        "std": found[name, "mAP, standard deviation of the draws"],
    }
    assert {key: 100 * value for key, value in ours.items()} == pytest.approx(theirs, abs=0.006)
    of_two_degrees = 4.302653  # Student's t, 97.5 %; the deviation divides by the three draws
    half_width = found[name, "mAP, mean of the draws, half-width of the 95 % interval"]
    assert half_width == pytest.approx(of_two_degrees * ours["std"] / 2**0.5)


def test_low_shot_of_one_class_each_looks_at_the_drawn_images_only(benchmark, voc, tmp_path):
    """The layout of Places205: one label per image, here 0 or 1."""
    for name, lists in zip(("train", "test"), voc, strict=True):
        np.save(tmp_path / f"{name}.npy", (np.load(lists[1])[:, 0] == 1).astype(np.int64))
    overrides = [f"config.DATA.{split.upper()}.LABEL_PATHS=[{tmp_path}/{split}.npy]" for split in ("train", "test")]
    result = benchmark(*LOW_SHOT, *overrides, "config.SVM.low_shot.dataset_name=places205")
    assert result.returncode == 0, result.stderr
    assert len(rows_in(tmp_path / "run")) == 2 * 2 * 5
    assert "k samples of each class" in rows_in(tmp_path / "run")[0]["protocol"]
    store = FeatureStore.open(tmp_path / "run/features/train_drawn")
    assert 4 <= store.num_samples <= 2 * 3 * (1 + 2)
    checked = dict(verify_artifacts([tmp_path / "run"]))
    assert [found for found in checked.values() if found] == []
    assert store.folder in checked


@pytest.mark.slow
def test_vissls_config_as_it_is(run_command, teacher, tmp_path):
    """All five layers of 224 pixels, eleven costs, the dual form; the machine is smaller. It copies the lists.

    One class, as each takes 165 SVMs of nine thousand dimensions.
    """
    voc = write_voc(tmp_path / "train", 12, 3, seed=0), write_voc(tmp_path / "test", 12, 3, seed=1)
    for _, targets in voc:
        np.save(targets, np.load(targets)[:, 2:])
    result = run_command(
        SVM[0],
        *ON_THIS_MACHINE,
        *[override for override in voc_overrides(*voc) if "COPY" not in override],
        f"config.DATA.TRAIN.COPY_DESTINATION_DIR={tmp_path / 'copies'}",
        f"config.DATA.TEST.COPY_DESTINATION_DIR={tmp_path / 'copies_of_the_test_split'}",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "copies").iterdir()) == []
    found = rows_in(tmp_path / "run")
    assert [row["benchmark"] for row in found] == [f"SVM, {name}" for name in ("conv1", "res2", "res3", "res4", "res5")]
    assert all(0.2 < row["value"] < 1 for row in found)


@pytest.mark.slow
def test_the_mistake_of_all_processes_is_told_once(benchmark):
    result = benchmark(*SVM, "config.SVM.cross_val_folds=40", "config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    assert result.returncode == 2
    assert result.stderr.count("The training split: found") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "config, overrides, message",
    [
        (SVM, ["config.DATA.TEST.LABEL_PATHS=[missing.npy]"], "config.DATA.TEST.LABEL_PATHS: found ['missing.npy']"),
        (
            SVM,
            ["config.DATA.TEST.LABEL_PATHS=[damaged.npy]"],
            "LABEL_PATHS: found damaged.npy, text, not a NumPy array",
        ),
        (SVM, ["config.SVM.loss=log"], "config.SVM.loss: found 'log'; allowed: 'hinge' | 'squared_hinge'"),
        (SVM, ["config.SVM.cls_list=[5]"], "config.SVM.cls_list: found [5]; allowed: 0 to 2"),
        (SVM, ["config.SVM.cross_val_folds=40"], "The training split: found"),
        (LOW_SHOT, ["config.SVM.low_shot.k_values=[30]"], "config.SVM.low_shot.k_values: found 30, and class 0 has"),
    ],
)
def test_mistakes_are_told_in_one_message(benchmark, tmp_path, config, overrides, message):
    """VISSL's script ends with exit code 0 and an average precision of -1 where the work of its children fails."""
    (tmp_path / "damaged.npy").write_bytes(b"no array")
    result = benchmark(*config, *overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run/results.json").exists()
