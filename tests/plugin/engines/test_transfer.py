"""The engine ``clusterfit_transfer``: frozen features of any network on labelled images, through real runs."""

import datetime
import shutil

import numpy as np
import pytest
import torch
from checkpoint_parts import trunk_of
from following import run_next
from PIL import Image
from results_file import rows_in
from sklearn.metrics import average_precision_score

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.report.results import ResultRow
from vissl_clusterfit.report.table import format_table
from vissl_clusterfit.transfer.settings import TransferSettings

TRANSFER = (
    "config=clusterfit/transfer",
    "config.MACHINE.DEVICE=cpu",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
    "config.TRANSFER.DATASET_NAME=noise",
    "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    "config.TRANSFER.LINEAR.C_GRID=[0.01,1.0]",
    "config.TRANSFER.KNN.NUM_NEIGHBORS=5",
)


def write_noise(folder, num_images: int, seed: int):
    """Noise of three classes that differ a little in colour, so that some of it is taken for another class."""
    rng = np.random.default_rng(seed)
    for index in range(num_images):
        pixels = rng.normal(128, 40, size=(32, 32, 3))
        pixels[..., index % 3] += rng.normal(8, 10)
        path = folder / f"class{index % 3}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def read(folder) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in the order and the scale of ToTensor, and classes."""
    files = sorted(folder.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1).ravel() for file in files])
    return pixels.astype(np.float64) / 255, np.array([int(file.parent.name[-1]) for file in files])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return write_noise(folder / "train", 60, seed=0), write_noise(folder / "test", 45, seed=1)


@pytest.fixture
def transfer(run_command, data, tmp_path):
    """Runs the engine."""

    def run(*overrides: str, command=run_command):
        train, test = data
        return command(
            *TRANSFER,
            f"config.DATA.TRAIN.DATA_PATHS=[{train}]",
            f"config.DATA.TEST.DATA_PATHS=[{test}]",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *overrides,
            cwd=tmp_path,
        )

    return run


@pytest.fixture
def rows_of(transfer, tmp_path):
    """Runs the engine and gives the rows that there are then."""

    def run(*overrides: str) -> list[dict]:
        result = transfer(*overrides)
        assert result.returncode == 0, result.stderr
        assert run_next(result.stdout) == ["table", f"{tmp_path}/run"]
        return rows_in(tmp_path / "run")

    return run


def knn_by_hand(train, test, num_neighbors: int, temperature: float) -> float:
    (gallery, classes), (queries, expected) = read(train), read(test)
    cosines = queries @ gallery.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    right = 0
    for row, label in zip(cosines, expected, strict=True):
        nearest = np.argsort(-row, kind="stable")[:num_neighbors]
        votes = np.bincount(classes[nearest], weights=np.exp(row[nearest] / temperature), minlength=3)
        right += votes.argmax() == label
    return right / len(expected)


def test_raw_pixels(rows_of, data, tmp_path):
    """The kNN score is that of the formula, computed by hand on the files."""
    linear, knn = rows_of("config.MODEL.TRUNK.NAME=raw_pixels", "config.TRANSFER.MODEL_NAME='raw pixels'")
    assert (linear["benchmark"], knn["benchmark"]) == ("linear", "knn")
    for row in (linear, knn):
        assert set(row) == {"model", "benchmark", "dataset", "split", "metric", "value", "protocol", "seed"}
        assert (row["model"], row["dataset"], row["split"]) == ("raw pixels", "noise", "test")
    assert knn["value"] == pytest.approx(knn_by_hand(*data, 5, 0.07))
    assert 0.4 < knn["value"] < 0.95
    assert "the 5 samples of the training split with the greatest cosine similarity" in knn["protocol"]
    store = FeatureStore.open(tmp_path / "run/features/test")
    np.testing.assert_allclose(store.read(0, 45), read(data[1])[0], atol=1e-6)


def test_an_untrained_network_and_a_trained_one_share_a_file(rows_of, student_run, tmp_path):
    checkpoint = student_run / "model_final_checkpoint_phase0.torch"
    rows_of("config.TRANSFER.MODEL_NAME=mine", "config.TRANSFER.PROTOCOLS=[knn]", "config.SEED_VALUE=3")
    rows = rows_of(
        "config.TRANSFER.MODEL_NAME=student",
        "config.TRANSFER.PROTOCOLS=[knn]",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={checkpoint}",
        "config.TRANSFER.FEATURES.PATH=student",
    )
    assert [(row["model"], row["seed"]) for row in rows] == [("mine (untrained)", 3), ("student", 0)]
    untrained, student = (FeatureStore.open(tmp_path / folder / "test") for folder in ("run/features", "student"))
    assert untrained.inputs["encoder"]["weights_sha256"] == "random, seed 3"
    assert student.dim == untrained.dim == 2048
    assert not np.allclose(student.read(0, 45), untrained.read(0, 45))


def test_features_of_another_network_are_refused(transfer, rows_of):
    before = rows_of("config.TRANSFER.PROTOCOLS=[knn]")
    result = transfer("config.TRANSFER.PROTOCOLS=[knn]", "config.SEED_VALUE=1")
    assert result.returncode == 2
    difference = 'encoder.weights_sha256: it was made with "random, seed 0", this run has "random, seed 1"'
    assert difference in result.stderr
    assert rows_of("config.TRANSFER.PROTOCOLS=[knn]") == before


ONE = ("config.TRANSFER.PROTOCOLS=[knn]", "config.TRANSFER.KNN.NUM_NEIGHBORS=5")


def weights_of(teacher, tmp_path, **networks) -> str:
    """A file with several networks: of each name, the teacher's trunk with its first convolution times a factor."""
    trunk = trunk_of(torch.load(teacher))
    changed = {
        name: {key: tensor * factor if key.endswith("conv1.weight") else tensor for key, tensor in trunk.items()}
        for name, factor in networks.items()
    }
    torch.save(changed, tmp_path / "several.torch")
    return f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={tmp_path / 'several.torch'}"


def test_one_of_several_networks_is_chosen_by_its_key(transfer, rows_of, teacher, tmp_path):
    """Without a choice they are refused, with this engine's settings; averaged weights are not the raw ones."""
    several = weights_of(teacher, tmp_path, state_dict=1.0, state_dict_ema=-0.5)
    result = transfer(*ONE, several)
    assert result.returncode == 2
    assert "2 networks that fit the trunk; their names begin with 'state_dict.', 'state_dict_ema.'" in result.stderr
    assert "Choose one with config.MODEL.WEIGHTS_INIT.REMOVE_PREFIX" in result.stderr
    assert "CLUSTERFIT.TEACHER" not in result.stderr
    assert "Traceback" not in result.stderr
    found = {}
    for key in ("state_dict", "state_dict_ema"):
        place = f"config.TRANSFER.FEATURES.PATH={tmp_path / key}"
        rows_of(*ONE, several, place, f"config.MODEL.WEIGHTS_INIT.STATE_DICT_KEY_NAME={key}")
        found[key] = FeatureStore.open(tmp_path / key / "test")
    alone = tmp_path / "alone"
    rows_of(*ONE, weights_of(teacher, tmp_path, state_dict=-0.5), f"config.TRANSFER.FEATURES.PATH={alone}")
    np.testing.assert_array_equal(found["state_dict_ema"].read(0, 45), FeatureStore.open(alone / "test").read(0, 45))
    assert not np.allclose(found["state_dict"].read(0, 45), found["state_dict_ema"].read(0, 45))
    assert found["state_dict_ema"].inputs["encoder"]["weights_network"].startswith("state_dict_ema")


def test_a_file_that_may_run_code_is_used_where_it_is_trusted(transfer, teacher, tmp_path, monkeypatch):
    trunk = trunk_of(torch.load(teacher))
    torch.save({"state_dict": trunk, "when": datetime.date(2020, 1, 1)}, tmp_path / "code.torch")
    weights = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={tmp_path / 'code.torch'}"
    refused = transfer(*ONE, weights)
    assert refused.returncode == 2
    assert f"the environment variable {TRUST_VARIABLE}=1" in refused.stderr
    assert "Traceback" not in refused.stderr
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    trusted = transfer(*ONE, weights)
    assert trusted.returncode == 0, trusted.stderr


def test_features_of_another_batch_size_are_refused(transfer, rows_of):
    raw = ("config.MODEL.TRUNK.NAME=raw_pixels", *ONE)
    before = rows_of(*raw, "config.TRANSFER.FEATURES.BATCH_SIZE=8")
    result = transfer(*raw, "config.TRANSFER.FEATURES.BATCH_SIZE=16")
    assert result.returncode == 2
    assert "batch_size: it was made with 8, this run has 16" in result.stderr
    assert rows_of(*raw, "config.TRANSFER.FEATURES.BATCH_SIZE=8") == before


LAYERS = (
    "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP="
    '[["res2",["AdaptiveAvgPool2d",[[1,1]]]],["res5",["AvgPool2d",[[1,1],1,0]]]]'
)


def test_every_protocol_on_several_layers_in_one_pass(rows_of, tmp_path):
    taxonomy = tmp_path / "taxonomy.json"
    taxonomy.write_text('{"levels": ["warmth", "colour"], "classes": [["warm", "r"], ["cold", "g"], ["cold", "b"]]}')
    overrides = (
        LAYERS,
        "config.TRANSFER.PROTOCOLS=[linear,knn,taxonomy_knn,retrieval,low_shot]",
        f"config.TRANSFER.TAXONOMY.FILE={taxonomy}",
        "config.TRANSFER.LOW_SHOT.SHOTS=[2,4]",
        "config.TRANSFER.LOW_SHOT.C_GRID=[0.01,1.0]",
    )
    rows = rows_of(*overrides)
    names = ["linear", "knn", "knn, warmth", "knn, colour", "retrieval"]
    shots = ["low-shot, k = 2", "low-shot, k = 4"]
    assert [row["benchmark"] for row in rows if "half-width" not in row["metric"]] == [
        f"{name}, {layer}" for layer in ("res2", "res5") for name in (*names, *shots)
    ]
    found = {(row["benchmark"], row["metric"]): row for row in rows}
    accuracy = "top-1 accuracy"
    assert found["knn, colour, res2", accuracy]["value"] == found["knn, res2", accuracy]["value"]
    assert found["knn, warmth, res2", accuracy]["value"] > found["knn, colour, res2", accuracy]["value"]
    half_width = found["low-shot, k = 4, res5", f"{accuracy}, half-width of the 95 % interval"]["value"]
    assert half_width > 0
    assert f" ± {100 * half_width:.1f}" in format_table([ResultRow(**row) for row in rows]).splitlines()[-1]
    assert found["linear, res5", accuracy]["protocol"].startswith("layer res5, AvgPool2d([1, 1], 1, 0), flattened; ")
    store = FeatureStore.open(tmp_path / "run/features/test")
    assert store.dim == 256 + 2048

    queries, labels = store.read(0, 45)[:, :256].astype(np.float64), np.repeat([0, 1, 2], 15)
    cosines = queries @ queries.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(queries, axis=1)
    others = ~np.eye(45, dtype=bool)
    expected = [
        average_precision_score((labels == labels[row])[others[row]], cosines[row, others[row]]) for row in range(45)
    ]
    assert found["retrieval, res2", "mAP"]["value"] == pytest.approx(np.mean(expected), abs=1e-6)

    # What is done is cached: the second run takes the scores from the folder, whatever they are.
    kept = tmp_path / "run/figures/res2/retrieval.json"
    kept.write_text(kept.read_text().replace(f"{found['retrieval, res2', 'mAP']['value']}", "0.5"))
    again = rows_of(*overrides)
    assert [row["value"] for row in again if row["benchmark"] == "retrieval, res2"] == [0.5]


def test_targets_of_several_classes_are_scored_by_svms(rows_of, data, tmp_path):
    overrides = []
    for split, folder in zip(("TRAIN", "TEST"), data, strict=True):
        files = sorted(folder.rglob("*.png"))
        classes = np.array([int(file.parent.name[-1]) for file in files])
        np.save(tmp_path / f"{split}_files.npy", np.array([str(file) for file in files]))
        np.save(tmp_path / f"{split}_targets.npy", np.stack([classes == 0, classes != 2], axis=1).astype(np.int64))
        overrides += [
            f"config.DATA.{split}.DATA_SOURCES=[disk_filelist]",
            f"config.DATA.{split}.LABEL_SOURCES=[disk_filelist]",
            f"config.DATA.{split}.DATA_PATHS=[{tmp_path / f'{split}_files.npy'}]",
            f"config.DATA.{split}.LABEL_PATHS=[{tmp_path / f'{split}_targets.npy'}]",
        ]
    pixels = ("config.MODEL.TRUNK.NAME=raw_pixels", "config.TRANSFER.SVM.COSTS=[0.1,1.0]")
    (row,) = rows_of("config.TRANSFER.PROTOCOLS=[svm]", *pixels, *overrides)
    assert (row["benchmark"], row["metric"]) == ("svm", "mAP")
    assert 0.5 < row["value"] < 1
    assert len(list((tmp_path / "run/figures/features").glob("class_*.json"))) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["config.TRANSFER.KNN.NUM_NEIGHBORS=61"],
            "NUM_NEIGHBORS: found 61; allowed: 1 to 60, the samples of the train",
        ),
        (["config.TRANSFER.PROTOCOLS=[svm]"], "found labels of shape (60,) for the protocol svm; allowed: targets for"),
        (
            ["config.TRANSFER.PROTOCOLS=[taxonomy_knn]", "config.TRANSFER.TAXONOMY.FILE=none.json"],
            "none.json is missing: the taxonomy",
        ),
        ([LAYERS, "config.TRANSFER.FEATURES.LAYER_NAME=res4"], "FEATURES.LAYER_NAME: found res4, and layers in config"),
        ([LAYERS.replace("res2", "res9")], "LINEAR_EVAL_FEAT_POOL_OPS_MAP: found ['res9']; allowed: conv1, res1"),
    ],
)
def test_what_cannot_be_computed_is_refused(transfer, tmp_path, overrides, message):
    result = transfer(*overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run/results.json").exists()


def test_a_row_says_of_how_many_samples_it_is(rows_of, data, tmp_path):
    test = tmp_path / "test"
    shutil.copytree(data[1], test)
    sorted(test.rglob("*.png"))[7].write_bytes(b"")
    [row] = rows_of("config.TRANSFER.PROTOCOLS=[knn]", f"config.DATA.TEST.DATA_PATHS=[{test}]")
    assert "; 44 of 45 test samples and 60 of 60 training samples, the others could not be read; " in row["protocol"]


def test_splits_with_other_class_folders_are_refused(transfer, data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("class0", "class2"):
        (other / name).symlink_to(data[1] / name)
    result = transfer(f"config.DATA.TEST.DATA_PATHS=[{other}]")
    assert result.returncode == 2
    assert "config.DATA.TEST.DATA_PATHS: found no folder class1, which TRAIN has; allowed: the same" in result.stderr


@pytest.mark.parametrize(
    "block, message",
    [
        (None, r"config\.TRANSFER: found None; allowed: a mapping"),
        ({"PROTOCOLS": ["cnn"]}, r"config\.TRANSFER\.PROTOCOLS: found \['cnn'\]; allowed: one or more of linear, knn"),
        ({"PROTOCOLS": ["taxonomy_knn"]}, r"config\.TRANSFER\.TAXONOMY\.FILE: found nothing"),
        ({"RETRIEVAL": {"GALLERY": "all"}}, r"RETRIEVAL\.GALLERY: found .all.; allowed: .test. . .train."),
        ({"RETRIEVAL": {"GALLERY": "all"}}, r"RETRIEVAL\.GALLERY: found 'all'; allowed: 'test' \| 'train'"),
        ({"LOW_SHOT": {"DRAWS": 1}}, r"config\.TRANSFER\.LOW_SHOT\.DRAWS: found 1; allowed: at least 2"),
        ({"PROTOCOLS": []}, r"config\.TRANSFER\.PROTOCOLS: found \[\]"),
        ({"MODEL_NAME": ""}, r"config\.TRANSFER\.MODEL_NAME: found nothing"),
        ({"KNN": {"K": 5}}, r"config\.TRANSFER\.KNN\.K: found an unknown key; allowed: NUM_NEIGHBORS"),
        ({"KNN": {"NUM_NEIGHBORS": 0}}, r"config\.TRANSFER\.KNN\.NUM_NEIGHBORS: found 0; allowed: at least 1"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(ConfigError, match=message):
        TransferSettings.from_config(block)
