import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from tiny import STUDENT, write_images
from tiny_store import save_store
from torchvision.models.resnet import Bottleneck, ResNet

TOOL = ROOT / "tools/plan_clustering.py"
SMALL = ("--num-samples", "2000", "--dim", "32", "--num-clusters", "10")


def plan(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def test_the_table_says_what_a_clustering_takes(tmp_path):
    done = plan("--num-samples", "1e6", "--dim", 64, "--num-clusters", "1e3", "--processes", 4, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1,000,000 of 1,000,000 features of dimension 64 into 1,000 clusters, 50 iterations" in done.stdout
    assert "4 process(es) on 1 machine(s), cpu, torch" in done.stdout
    for title in (
        "memory per process",
        "disk",
        "reads, in passes over the features",
        "assignments, of all features to all clusters",
        "network per iteration",
        "time on machines like this one, at most",
    ):
        assert f"\n{title}\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_has_every_figure(tmp_path):
    done = plan(*SMALL, "--num-iter", 3, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["work"]["num_clusters"] == 10
    assert found["memory_per_process"] == sum(found["memory"]["parts"].values())
    assert found["disk"]["features"] == 2000 * (32 * 4 + 8)
    assert found["reads"]["iterations"] == 3
    assert found["seconds_total"] == pytest.approx(sum(found["seconds"].values()))
    assert found["warnings"] == []


def test_without_calibration_there_are_no_times(tmp_path):
    found = json.loads(plan(*SMALL, "--no-calibration", "--json", cwd=tmp_path).stdout)
    assert found["seconds"] == {}
    assert found["seconds_total"] is found["rates"] is None


def test_what_will_not_fit_is_warned_of(tmp_path):
    size = ["--num-samples", "1e12", "--dim", "1000000", "--num-components", 9, "--num-clusters", "1e9"]
    done = plan(*size, "--no-calibration", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    memory, disk = json.loads(done.stdout)["warnings"]
    assert "Take machines with more memory" in memory
    assert "config.CLUSTERFIT.FEATURES.PATH" in disk


def test_features_that_are_there_say_how_many_they_are(tmp_path):
    store = save_store(tmp_path / "store", np.ones((300, 24), dtype=np.float32), [7], dtype="float16")
    done = plan("--features", store.folder, "--num-clusters", 5, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    work = json.loads(done.stdout)["work"]
    assert (work["num_samples"], work["input_dim"], work["dtype"]) == (299, 24, "float16")


def test_settings_come_from_a_config(tmp_path):
    done = plan(
        "config=clusterfit/imagenet1k/rotnet_resnet50",
        "config.MACHINE.DEVICE=cpu",
        "config.DISTRIBUTED.NUM_NODES=2",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=3",
        "config.CLUSTERFIT.FEATURES.DTYPE=float16",
        "--num-samples=1281167",
        "--dim=2048",
        "--num-iter=7",
        "--no-calibration",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    work = json.loads(done.stdout)["work"]
    assert (work["num_clusters"], work["processes"], work["machines"], work["dtype"]) == (16000, 6, 2, "float16")
    assert work["num_iter"] == 7  # options come before the config


def test_the_data_and_the_network_of_a_config_say_how_many_features_there_will_be(tmp_path):
    """Of a narrow network: res5 has 32 · WIDTH_PER_GROUP channels. No weights are needed."""
    images = write_images(tmp_path / "images", 30)
    done = plan(*STUDENT, f"config.DATA.TRAIN.DATA_PATHS=[{images}]", "--no-calibration", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    work = json.loads(done.stdout)["work"]
    assert (work["num_samples"], work["input_dim"], work["num_clusters"]) == (30, 2048, 4)


def test_a_config_is_planned_from_its_images_to_its_last_epoch(tmp_path):
    images = write_images(tmp_path / "images", 30)
    here = (*STUDENT, f"config.DATA.TRAIN.DATA_PATHS=[{images}]", f"config.CHECKPOINT.DIR={tmp_path / 'run'}")
    done = plan(
        *here, "config.OPTIMIZER.num_epochs=7", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    extraction, training = found["extraction"], found["training"]
    assert (extraction["num_images"], extraction["batch_size"]) == (30, 4)
    assert (training["num_images"], training["batch_size"]) == (7 * 30, 8)
    for stage in (extraction, training):
        an_image = stage["compute"] + stage["read"]
        assert stage["seconds"] == pytest.approx(stage["num_images"] * an_image)
    weights = sum(weight.numel() for weight in student_weights())
    # Weights, gradients and momentum, beside what a batch of eight takes; of the teacher the weights alone.
    assert training["memory"] > 3 * 4 * weights
    assert training["memory"] > extraction["memory"] > 4 * weights * 0.9
    assert training["disk"] == pytest.approx(8 * 2 * 4 * weights, rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_epochs_that_are_drawn_balanced_have_as_many_images_as_are_drawn(tmp_path):
    images = write_images(tmp_path / "images", 30)
    drawn = ("config.CLUSTERFIT.BALANCED_SAMPLES=12", "config.OPTIMIZER.num_epochs=3")
    here = (*STUDENT, f"config.DATA.TRAIN.DATA_PATHS=[{images}]", *drawn)
    done = plan(*here, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["num_images"] == 3 * 12


def test_a_head_that_is_spread_is_counted_beside_the_network(tmp_path):
    images = write_images(tmp_path / "images", 30)
    here = (*STUDENT, f"config.DATA.TRAIN.DATA_PATHS=[{images}]", f"config.CHECKPOINT.DIR={tmp_path / 'run'}")
    memory = []
    for clusters in (30, 4):
        partial = (f"config.CLUSTERFIT.NUM_CLUSTERS={clusters}", "config.CLUSTERFIT.HEAD.KIND=partial")
        done = plan(*here, *partial, "config.CLUSTERFIT.HEAD.RATE=0.5", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        memory.append(json.loads(done.stdout)["training"]["memory"])
    # Of 26 clusters more the rows, half of them once more, and four numbers of these for each of eight images.
    assert memory[0] - memory[1] == 4 * 2048 * (26 + 13) + 8 * 16 * 13


def student_weights():
    """Of a ResNet-50 with WIDTH_PER_GROUP=4, as VISSL has it from torchvision, and a linear layer of four clusters."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes=4, width_per_group=4).parameters()


def test_the_table_ends_with_the_whole_run(tmp_path):
    images = write_images(tmp_path / "images", 30)
    done = plan(*STUDENT, f"config.DATA.TRAIN.DATA_PATHS=[{images}]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nextraction of 30 images, in batches of 4 in each process\n" in done.stdout
    assert "\ntraining of 30 images, in batches of 8 in each process\n" in done.stdout
    whole = done.stdout.split("\nthe whole run, on machines like this one\n")[1]
    assert [line.split()[0] for line in whole.splitlines()][:4] == ["extraction", "clustering", "labelling", "training"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SMALL, "--num-clusters", "many"), "--num-clusters: found 'many'; allowed: a whole number"),
        ((*SMALL, "--num-samples", "1.5"), "--num-samples: found '1.5'"),
        ((*SMALL, "--num-samples", "nan"), "--num-samples: found 'nan'"),
        ((*SMALL, "--num-clusters", "3000"), "NUM_CLUSTERS: found 3000; allowed: 1 to 2000"),
        ((*SMALL, "--dim", "-1"), "dimension of the features: found -1; allowed: 1 or more"),
        ((*SMALL, "--data-limit", "5"), "NUM_CLUSTERS: found 10; allowed: 1 to 5"),
        ((*SMALL, "--network", "0"), "--network: found 0.0; allowed: more than 0"),
        (("--dim", "8"), "--num-samples: found nothing; allowed: a number, --features FOLDER"),
        (("--features", "nowhere"), "nowhere"),
        ((*SMALL, "clusterfit/assign"), "The command: found clusterfit/assign; allowed: config=<name>"),
        ((*SMALL, "config=clusterfit/nowhere"), "config=clusterfit/nowhere: found no such config"),
    ],
)
def test_bad_input_gets_one_message(tmp_path, arguments, message):
    done = plan(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
