"""Real trainings on other targets than one label: from one command, with validation, resumed, and on two processes."""

import json

import numpy as np
import torch
from tiny import NO_CHANCE

from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.targets import fitted_temperature

SOFT = (
    "config.CLUSTERFIT.TARGETS.KIND=soft",
    "config.CLUSTERFIT.TARGETS.NUM_NEAREST=3",
    "config.CLUSTERFIT.TARGETS.PERPLEXITY=2.0",
)
SOFT_NESTED = (
    *SOFT[1:],
    "config.CLUSTERFIT.TARGETS.KIND=soft_nested",
    "config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[2]",
    "config.CLUSTERFIT.TARGETS.ALSO_PERPLEXITY=[1.5]",
)


def model_of(checkpoint):
    return checkpoint["classy_state_dict"]["base_model"]["model"]


def accuracies(folder):
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [row["test_accuracy_list_meter"]["top_1"] for row in rows if "test_accuracy_list_meter" in row]


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_soft_targets_from_one_command_with_validation(train, tmp_path, held_out):
    said, _ = train("run", *SOFT, *held_out, "config.CLUSTERFIT.TARGETS.MARGIN_POWER=1.0")
    assert "config.CLUSTERFIT.TOP_CLUSTERS: 1 becomes 3, as the targets are soft" in said
    labels = PseudoLabels.open(tmp_path / "run/clusterfit/labels/train")
    assert labels.nearest.shape == (30, 3)
    temperature = fitted_temperature(labels.nearest_distances, 2.0)
    assert f"Targets of head 0: soft, temperature {temperature:.6g}; 0 samples are left out." in said
    assert [list(accuracy) for accuracy in accuracies(tmp_path / "run")] == [["clusters"]]
    record = json.loads((tmp_path / "run/training.json").read_text())["inputs"]["CLUSTERFIT"]
    assert record["targets"] == {"kind": "soft", "num_nearest": 3, "perplexity": 2.0, "margin_power": 1.0}

    said, _ = train("run", *SOFT, *held_out, code=2)
    assert "CLUSTERFIT.targets.margin_power: it was made with 1.0, this run has null" in said


def test_nested_targets_have_a_head_for_each_number_of_clusters(train, tmp_path, held_out):
    nested = ("config.CLUSTERFIT.TARGETS.KIND=nested", "config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[2]")
    _, checkpoint = train("run", *nested, *held_out)
    shapes = {name: value.shape for name, value in model_of(checkpoint)["heads"].items() if name.endswith("weight")}
    assert shapes == {"0.classifiers.0.clf.0.weight": (4, 2048), "0.classifiers.1.clf.0.weight": (2, 2048)}
    assert PseudoLabels.open(tmp_path / "run/clusterfit/also/2/labels/train").num_clusters == (2,)
    [accuracy] = accuracies(tmp_path / "run")
    assert list(accuracy) == ["clusters_0_4", "clusters_1_2"]


def test_soft_nested_targets_with_those_of_another_teacher(train, tmp_path, held_out):
    """Three heads, each with its own temperature: of four clusters, of two, and of another four."""
    train("other", *SOFT, "config.CLUSTERFIT.SEED=3", *held_out)
    other = tmp_path / "other/clusterfit/labels/train"
    joined = f"config.CLUSTERFIT.JOINED_LABELS=[{other}]"
    said, checkpoint = train("run", *SOFT_NESTED, *held_out, joined)
    of_own = [tmp_path / "run/clusterfit" / place / "labels/train" for place in (".", "also/2")]
    for head, (folder, width, wanted) in enumerate(zip((*of_own, other), (3, 2, 3), (2.0, 1.5, 2.0), strict=True)):
        labels = PseudoLabels.open(folder)
        assert labels.nearest.shape == (30, width)
        temperature = fitted_temperature(labels.nearest_distances, wanted)
        assert f"Targets of head {head}: soft_nested, temperature {temperature:.6g}; 0 samples" in said
    assert [len(value) for name, value in model_of(checkpoint)["heads"].items() if name.endswith("bias")] == [4, 2, 4]
    [accuracy] = accuracies(tmp_path / "run")
    assert list(accuracy) == ["clusters_0_4", "clusters_1_2", "clusters_2_4"]
    said, _ = train("run", *SOFT_NESTED, *held_out, joined, "config.CLUSTERFIT.TARGETS.ALSO_PERPLEXITY=[1.2]", code=2)
    assert "CLUSTERFIT.targets.also_perplexity[0]: it was made with 1.5, this run has 1.2" in said, said


def test_labels_without_the_nearest_clusters_are_refused_and_stay(train, tmp_path, student_run):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/clusterfit").symlink_to(student_run / "clusterfit")
    before = written(student_run / "clusterfit")
    said, _ = train("run", *SOFT, code=2)
    assert "found soft with NUM_NEAREST=3, and labels in" in said
    assert "(TOP_CLUSTERS=1); allowed: labels with TOP_CLUSTERS=3 or more, or KIND=hard." in said
    assert "Traceback" not in said
    assert written(student_run / "clusterfit") == before


def test_mixed_images_are_refused_with_them(train):
    mixed = (
        "config.DATA.TRAIN.COLLATE_FUNCTION=clusterfit_mix_collator",
        "+config.DATA.TRAIN.COLLATE_FUNCTION_PARAMS.num_clusters=4",
    )
    said, _ = train("run", *SOFT, *mixed, code=2)
    assert "COLLATE_FUNCTION: found clusterfit_mix_collator with CLUSTERFIT.TARGETS that are more than a label" in said


def test_a_second_codebook_leaves_samples_out(train, tmp_path, student_run, student_overrides):
    second = student_run / "clusterfit/labels/train"
    said, _ = train("run", f"config.CLUSTERFIT.TARGETS.AGREES_WITH={second}", "config.CLUSTERFIT.SEED=5")
    assert "Targets of head 0: hard; " in said
    record = json.loads((tmp_path / "run/training.json").read_text())["inputs"]["CLUSTERFIT"]
    assert record["targets"] == {"agrees_with": PseudoLabels.open(second).inputs}


def test_a_training_that_was_stopped_ends_with_the_same_weights(train, tmp_path):
    options = (*SOFT_NESTED, NO_CHANCE, "config.OPTIMIZER.num_epochs=3", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    options += ("config.CLUSTERFIT.TARGETS.MIN_MARGIN=0.1",)
    _, expected = train("undisturbed", *options)
    _, _ = train("run", *options)
    (tmp_path / "run/model_final_checkpoint_phase2.torch").unlink()
    (tmp_path / "run/model_phase1.torch").unlink()  # as if it had been killed in the second epoch
    said, found = train("run", *options)
    assert "Starting phase 0 [train]" not in said
    for part in ("trunk", "heads"):
        for name, value in model_of(expected)[part].items():
            assert torch.equal(value, model_of(found)[part][name]), name


def test_two_processes_train_as_one(train, tmp_path):
    """A linear layer on the pixels, since batch normalisation is each process's own."""
    linear = (
        *SOFT_NESTED,
        NO_CHANCE,
        "config.MODEL.TRUNK.NAME=raw_pixels",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.IMAGE_SIZE=32",
        "+config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME=resnet",
        "config.OPTIMIZER.num_epochs=2",
    )
    _, one = train("one", *linear)
    _, two = train(
        "two", *linear, "config.DISTRIBUTED.NUM_PROC_PER_NODE=2", "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4"
    )
    for name in ("nearest.npy", "nearest_distances.npy", "labels.npy", "../../also/2/labels/train/nearest.npy"):
        first, second = (tmp_path / run / "clusterfit/labels/train" / name for run in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    for name, value in model_of(one)["heads"].items():
        torch.testing.assert_close(value, model_of(two)["heads"][name], rtol=1e-4, atol=1e-6)
    assert not np.allclose(model_of(one)["heads"]["0.classifiers.0.clf.0.bias"], 0)
