"""Exported networks, loaded strictly by the library alone, with the outputs of the trained trunk; what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from trained_networks import TRUNKS, save_trained

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import ArtifactError, ConfigError, MissingDependencyError, TeacherError
from vissl_clusterfit.plugin.export.export import export_model

ELSEWHERE = [kind for kind, (*_, library) in TRUNKS.items() if library != "vissl"]
QUICK = ("bgr", "regnet", "vit-of-other-size", "convit")
HEAD = [["mlp", {"dims": [2048, 7]}]]

#: A program without this package: the lines of the card, for each folder.
_ALONE = """
import json, sys
import torch
for folder in sys.argv[1:]:
    expected = torch.load(f"{folder}/expected.pt")
    card = json.load(open(f"{folder}/export/card.json"))
    given = {"images": expected["images"]}
    with torch.inference_mode():
        for line in card["load"]:
            exec(line.replace("model.safetensors", f"{folder}/export/model.safetensors"), given)
        difference = (given[card["output"]["name"]] - expected[card["output"]["name"]]).abs().max().item()
        given["model"].load_state_dict(torch.load(f"{folder}/export/model.pth"), strict=True)
        print(json.dumps([folder.rsplit("/", 1)[1], card["library"], difference]))
assert not any(name.startswith(("vissl", "classy_vision")) for name in sys.modules)
"""


def load_alone(*folders):
    """What a program without this package finds: of each folder its name, the library, and how far outputs are off."""
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, *map(str, folders)], cwd=folders[0], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "kinds", [QUICK, pytest.param([kind for kind in ELSEWHERE if kind not in QUICK], marks=pytest.mark.slow)]
)
def test_other_libraries_load_trunks_strictly_and_give_their_features(tmp_path, kinds):
    for kind in kinds:
        export_model(save_trained(tmp_path / kind, kind), tmp_path / kind / "export")
    found = load_alone(*(tmp_path / kind for kind in kinds))
    assert [(kind, library) for kind, library, _ in found] == [(kind, TRUNKS[kind][3]) for kind in kinds]
    assert max(difference for *_, difference in found) < 1e-5
    files = {path.name for path in (tmp_path / kinds[0] / "export").iterdir()}
    assert files == {"card.json", "model.pth", "model.safetensors"}


def test_trunks_of_video_keep_our_names_where_torchvision_has_none(tmp_path):
    run = save_trained(tmp_path / "run", "narrow-clips")
    card = json.loads((export_model(run, tmp_path / "export") / "card.json").read_text())
    assert (card["library"], card["output"]["dim"], card["input"]["shape"]) == ("vissl", 64, [3, 16, 224, 224])
    assert card["why_no_other_library"] == "VIDEO.WIDTH=8, and torchvision has the published width"


def test_a_head_of_one_linear_layer_goes_along(tmp_path):
    heads = {
        "narrow": HEAD,
        "regnet": [["clusterfit_head", {"num_clusters": 5, "in_features": 152}]],
        "vit": [["clusterfit_head", {"num_clusters": 5, "in_features": 64}]],
        "convit": [["mlp", {"dims": [64, 4]}]],
    }
    for kind, head in heads.items():
        export_model(save_trained(tmp_path / kind, kind, head), tmp_path / kind / "export", head=True)
    found = load_alone(*(tmp_path / kind for kind in heads))
    assert max(difference for *_, difference in found) < 1e-5
    weights = safetensors.torch.load_file(tmp_path / "narrow/export/model.safetensors")
    assert weights["fc.weight"].shape == (7, 2048)


def test_what_no_library_has_keeps_vissls_names_and_says_why(tmp_path):
    run = save_trained(tmp_path / "run", "last-stride-1", HEAD)
    export_model(run, tmp_path / "export", head=True)
    card = json.loads((tmp_path / "export/card.json").read_text())
    assert (card["library"], card["model"]["INPUT_TYPE"]) == ("vissl", "rgb")
    assert card["why_no_other_library"].startswith("RESNETS.LAYER4_STRIDE=1, and other libraries have 2")
    with pytest.raises(TeacherError, match=r"cannot be written for torchvision: RESNETS.LAYER4_STRIDE=1.*form=vissl"):
        export_model(run, tmp_path / "other", form="torchvision")
    # VISSL takes it by MODEL.WEIGHTS_INIT, with the card's blocks.
    from vissl.config import AttrDict
    from vissl.models import build_model
    from vissl.utils.checkpoint import init_model_from_consolidated_weights

    from vissl_clusterfit.plugin.export.trained import _whole_model

    model = AttrDict({**_whole_model({}), **card["model"], "_MODEL_INIT_SEED": 0})
    model.HEAD = AttrDict({**_whole_model({})["HEAD"], **card["model"]["HEAD"]})
    network = build_model(model, AttrDict({}))
    state = torch.load(tmp_path / "export/model.pth")
    init_model_from_consolidated_weights(
        AttrDict({"MODEL": model}), network, state, "classy_state_dict", [], None, None
    )
    expected = torch.load(run / "expected.pt")
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(expected["images"])[-1], expected["logits"])
    names = safetensors.torch.load_file(tmp_path / "export/model.safetensors")
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in names.items() if name.startswith("trunk.")}
    network.trunk.load_state_dict(trunk, strict=True)


@pytest.mark.parametrize(
    "kind",
    [
        "vit",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bgr", "regnet", "convit", "xcit", "last-stride-1")),
    ],
)
def test_onnx_gives_the_features_for_any_number_of_images(tmp_path, kind):
    import onnxruntime

    run = save_trained(tmp_path / "run", kind)
    export_model(run, tmp_path / "export", onnx=True)
    expected = torch.load(run / "expected.pt")
    session = onnxruntime.InferenceSession(str(tmp_path / "export/model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3):
        [given] = session.run(["features"], {"images": expected["images"][:batch].numpy()})
        np.testing.assert_allclose(given, expected["features"][:batch].numpy(), rtol=1e-4, atol=1e-5)
    card = json.loads((tmp_path / "export/card.json").read_text())
    assert set(card["files"]) == {"model.onnx", "model.pth", "model.safetensors"}


def test_a_card_says_what_the_network_is_and_of_what(tmp_path):
    from vissl_clusterfit.storage.artifacts import file_sha256

    run = save_trained(tmp_path / "run", "narrow")
    export = export_model(run, tmp_path / "export")
    card = json.loads((export / "card.json").read_text())
    checkpoint = run / "model_final_checkpoint_phase0.torch"
    assert card["made_from"]["checkpoint"] == {"name": checkpoint.name, "sha256": file_sha256(checkpoint)}
    assert card["made_from"]["data"] == {"fingerprint": "f", "num_samples": 3}
    assert card["output"] == {"name": "features", "dim": 2048, "layer": "output of the trunk"}
    assert card["input"]["shape"] == [3, 32, 32]
    assert [step["name"] for step in card["input"]["transforms"]] == ["Resize", "CenterCrop", "ToTensor"]
    assert {name: of["sha256"] for name, of in card["files"].items()} == {
        name: file_sha256(export / name) for name in ("model.pth", "model.safetensors")
    }
    assert str(tmp_path) not in json.dumps(card)


def test_a_training_that_has_not_finished_is_refused_unless_a_checkpoint_is_named(tmp_path):
    run = save_trained(tmp_path / "run", "narrow", name="model_phase0")
    with pytest.raises(ArtifactError, match=r"has not finished: it has no final checkpoint.*name one of its"):
        export_model(run, tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert export_model(run / "model_phase0.torch", tmp_path / "export").is_dir()


def test_mistakes_get_one_message_and_leave_nothing(tmp_path, monkeypatch):
    run = save_trained(tmp_path / "run", "narrow", [["clusterfit_head", {"num_clusters": [5, 6], "in_features": 2048}]])
    goal = tmp_path / "export"
    with pytest.raises(ConfigError, match=r"form: found 'tensorflow'; allowed: auto \| torchvision \| timm"):
        export_model(run, goal, form="tensorflow")
    with pytest.raises(TeacherError, match=r"for timm: the trunk resnet of these settings is one of torchvision"):
        export_model(run, goal, form="timm")
    with pytest.raises(TeacherError, match=r"for torchvision: its head has 2 layers with weights"):
        export_model(run, goal, form="torchvision", head=True)
    with pytest.raises(ArtifactError, match=r"is missing. Name the folder of a training"):
        export_model(tmp_path / "nowhere", goal)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"has no training: it holds no checkpoint"):
        export_model(tmp_path / "empty", goal)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/own.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"is there already"):
        export_model(run, tmp_path / "full")
    installed = dependencies._is_installed
    monkeypatch.setattr(dependencies, "_is_installed", lambda name: name != "onnxruntime" and installed(name))
    with pytest.raises(MissingDependencyError, match=r"pip install 'vissl-clusterfit\[onnx\]'"):
        export_model(run, goal, onnx=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file/export cannot be written: .*make room or name another folder, and"):
        export_model(run, tmp_path / "file/export")
    (tmp_path / "file").unlink()
    checkpoint = run / "model_final_checkpoint_phase0.torch"
    torch.save(print, checkpoint)  # a function: its pickle names code
    with pytest.raises(TeacherError, match=r"one that runs code when it is opened: .*variable VISSL_CLUSTERFIT"):
        export_model(checkpoint, goal)
    checkpoint.write_bytes(b"PK and nothing else")
    with pytest.raises(TeacherError, match=r"is no checkpoint"):
        export_model(checkpoint, goal)
    (run / "training.json").unlink()
    with pytest.raises(ArtifactError, match=r"has no training.json beside it"):
        export_model(checkpoint, goal)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "run"]
    assert (tmp_path / "full/own.txt").read_text() == "mine"


def test_without_its_library_a_network_keeps_vissls_names(tmp_path, monkeypatch):
    installed = dependencies._is_installed
    monkeypatch.setattr(dependencies, "_is_installed", lambda name: name != "timm" and installed(name))
    run = save_trained(tmp_path / "run", "vit")
    card = json.loads((export_model(run, tmp_path / "export") / "card.json").read_text())
    assert card["library"] == "vissl"
    assert card["why_no_other_library"].startswith("Not installed: timm. Install with: python -m pip install")


def test_outputs_that_differ_are_no_counterpart(tmp_path, monkeypatch):
    """A library whose network of this name is another one; and one that gives no numbers."""
    from vissl_clusterfit.plugin.export import convolutional

    run = save_trained(tmp_path / "run", "narrow")
    names = convolutional._resnet_names
    for number, more in enumerate((1.0, float("nan"))):

        def other(state, *, is_bgr, more=more):
            renamed = names(state, is_bgr=is_bgr)
            return {**renamed, "bn1.bias": renamed["bn1.bias"] + more}

        monkeypatch.setattr(convolutional, "_resnet_names", other)
        with pytest.raises(TeacherError, match=r"resnet50\(width_per_group=4\) gives other outputs, by"):
            export_model(run, tmp_path / "export", form="torchvision")
        card = json.loads((export_model(run, tmp_path / f"export{number}") / "card.json").read_text())
        assert card["library"] == "vissl"


def test_a_killed_export_leaves_no_folder(tmp_path, monkeypatch):
    from vissl_clusterfit.plugin.export import export

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_card", killed)
    with pytest.raises(KeyboardInterrupt):
        export_model(save_trained(tmp_path / "run", "narrow"), tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_record_names_no_code_to_run(tmp_path, monkeypatch):
    """A folder from elsewhere: its record says that the trunk is what a function of a module returns."""
    run = save_trained(tmp_path / "run", "narrow")
    (tmp_path / "others_code.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    record = json.loads((run / "training.json").read_text())
    trunk = {"NAME": "library_network", "LIBRARY_NETWORK": {"MODEL": "python:others_code:net", "ARGUMENTS": {}}}
    record["inputs"]["MODEL"]["TRUNK"] |= trunk
    (run / "training.json").write_text(json.dumps(record))
    refused = r"the trunk in .*training.json: found python:others_code:net, which runs the code of others_code; "
    with pytest.raises(ConfigError, match=refused + r".*VISSL_CLUSTERFIT_IMPORT=others_code"):
        export_model(run, tmp_path / "export")
    from vissl_clusterfit.launch.compose.compose import compose

    weights = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={run}/model_final_checkpoint_phase0.torch"
    with pytest.raises(ConfigError, match=refused):
        compose(
            ["config=clusterfit/transfer", "config.MACHINE.DEVICE=cpu", weights, f"config.CHECKPOINT.DIR={tmp_path}"]
        )
    assert not (tmp_path / "ran").exists()
