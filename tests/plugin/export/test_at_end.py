"""What a training leaves for other libraries, and a run's folder that was copied elsewhere."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import torchvision
from benchmark_data import write_classes
from checkpoint_parts import trunk_of

from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.report.results import read_results

FINAL = "model_final_checkpoint_phase0.torch"


@pytest.fixture(scope="module")
def exporting(student_overrides):
    return [*student_overrides, "config.CLUSTERFIT.EXPORT=true"]


def trained_trunk(run):
    state = trunk_of(torch.load(run / FINAL))
    return {name.removeprefix("_feature_blocks."): tensor for name, tensor in state.items()}


def test_a_training_leaves_its_trunk_for_torchvision(student_run):
    network = torchvision.models.resnet50(width_per_group=4)
    network.fc = torch.nn.Identity()
    network.load_state_dict(safetensors.torch.load_file(student_run / "export/model.safetensors"), strict=True)
    trained = trained_trunk(student_run)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in network.state_dict().items())
    card = json.loads((student_run / "export/card.json").read_text())
    assert card["made_from"]["data"]["num_samples"] == 30
    assert len(card["made_from"]["labels"]["TRAIN"]["features"]["teacher"]["weights_sha256"]) == 64
    assert card["input"]["transforms"] == [{"name": "Resize", "size": [32, 32]}, {"name": "ToTensor"}]


def test_a_run_that_is_finished_makes_a_missing_export_and_leaves_one_that_is_there(
    student_run, exporting, run_command, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(student_run, run, symlinks=True)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    command = [*exporting, f"config.CHECKPOINT.DIR={run}"]
    assert run_command(*command, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "export").iterdir()}.items() <= before.items()
    shutil.rmtree(run / "export")
    result = run_command(*command, "config.CLUSTERFIT.EXPORT=false", cwd=tmp_path)
    assert not (run / "export").exists()
    result = run_command(*command, cwd=tmp_path)
    assert f"export: {run}/export/card.json" in result.stdout
    # What an earlier training left there is another's.
    card = json.loads((run / "export/card.json").read_text())
    card["made_from"]["checkpoint"]["sha256"] = "of an earlier one"
    (run / "export/card.json").write_text(json.dumps(card))
    assert run_command(*command, cwd=tmp_path).returncode == 0
    assert "of an earlier one" not in (run / "export/card.json").read_text()
    # The user's own stays, and ends nothing.
    shutil.rmtree(run / "export")
    (run / "export").mkdir()
    (run / "export/notes.txt").write_text("mine")
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 0
    assert f"No export beside the checkpoint: {run}/export holds something else" in result.stdout
    assert [path.name for path in run.iterdir() if path.name.startswith("export")] == ["export"]
    assert [path.name for path in (run / "export").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_the_readmes_transfer_of_a_copied_run_needs_no_trunk_and_no_sizes(student_run, run_command, tmp_path):
    run = tmp_path / "elsewhere" / "a run"
    shutil.copytree(student_run, run, symlinks=True)
    train, test = (write_classes(tmp_path / name, 24, 3, seed) for seed, name in enumerate(("train", "test")))
    result = run_command(
        "config=clusterfit/transfer",
        "config.MACHINE.DEVICE=cpu",
        f"config.DATA.TRAIN.DATA_PATHS=[{train}]",
        f"config.DATA.TEST.DATA_PATHS=[{test}]",
        f'config.MODEL.WEIGHTS_INIT.PARAMS_FILE="{run}/checkpoint.torch"',
        "config.TRANSFER.MODEL_NAME=student",
        f"config.CHECKPOINT.DIR={tmp_path}/transfer",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert [row.benchmark for row in read_results(tmp_path / "transfer")] == ["linear", "knn"]


@pytest.fixture
def benchmark(student_run, tmp_path):
    """The config of one of VISSL's benchmarks of the student."""

    def composed(name, *overrides):
        weights = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={student_run}/checkpoint.torch"
        command = [
            f"config=benchmark/{name}",
            "config.MACHINE.DEVICE=cpu",
            weights,
            f"config.CHECKPOINT.DIR={tmp_path}",
        ]
        return compose([*command, *overrides])[2]

    return composed


def sizes(config, split):
    return [step["size"] for step in config.DATA[split].TRANSFORMS if "size" in step]


def test_vissls_benchmarks_take_trunk_and_sizes(benchmark):
    config = benchmark("nearest_neighbor/eval_resnet_8gpu_in1k_kNN")
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 4
    assert sizes(config, "TRAIN") == sizes(config, "TEST") == [37, 32]
    assert [step["name"] for step in config.DATA.TEST.TRANSFORMS] == ["Resize", "CenterCrop", "ToTensor"]
    own = ["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=8", "config.DATA.TEST.TRANSFORMS=[{name:ToTensor}]"]
    config = benchmark("nearest_neighbor/eval_resnet_8gpu_in1k_kNN", *own)
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 8
    assert config.DATA.TEST.TRANSFORMS == [{"name": "ToTensor"}]


def test_heads_that_are_made_for_a_size_keep_it(benchmark, capsys):
    """Its pools of six by six are of maps of images of 224 pixels."""
    config = benchmark("linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear")
    assert config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP == 4
    assert sizes(config, "TEST") == [256, 224]
    said = capsys.readouterr().out
    assert "warning: config.DATA.TEST.TRANSFORMS: images of 224 pixels, and the network was trained with 32." in said


def test_layers_of_another_trunk_are_refused_before_anything_starts(tmp_path):
    from trained_networks import save_trained

    from vissl_clusterfit.errors import ConfigError

    run = save_trained(tmp_path / "run", "vit")
    named = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={run}/{FINAL}"
    linear = "config=benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear"
    with pytest.raises(ConfigError, match=r"layers of the trunk resnet, and weights of a vision_transformer"):
        compose([linear, "config.MACHINE.DEVICE=cpu", named, f"config.CHECKPOINT.DIR={tmp_path}/b"])


def test_a_full_disk_ends_the_run_and_the_next_start_makes_the_export(
    student_run, exporting, start_script, run_command, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(student_run, run, symlinks=True)
    shutil.rmtree(run / "export")
    (run / "log.txt").unlink()
    command = [*exporting, f"config.CHECKPOINT.DIR={run}"]
    small_files = ("bash", "-c", 'ulimit -f 40; exec "$@"', "bash")  # in KiB
    process = start_script(*command, cwd=tmp_path, before=small_files)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert "cannot be written: File too large" in said
    assert not [path for path in run.rglob("*") if "export" in path.name]
    assert run_command(*command, cwd=tmp_path).stdout.count(f"export: {run}/export/card.json") == 1
