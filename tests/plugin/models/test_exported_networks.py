"""Students by name, exported: their own libraries load them."""

import json

import pytest
import torch
from library_networks import of_transformers
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.export.export import export_model
from vissl_clusterfit.plugin.training.record import RECORD_NAME


@pytest.fixture
def finished(tmp_path):
    """The final checkpoint of a training of one network by its name, with the record beside it."""

    def make(name, *more, size=64):
        overrides = [f"config.MODEL.TRUNK.NAME={name}", *more, "config.CLUSTERFIT.NUM_CLUSTERS=3"]
        run = tmp_path / "run"
        data = ["config.DATA.TRAIN.DATA_SOURCES=[disk_folder]", f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path}]"]
        composed = ["config=clusterfit/student", "config.MACHINE.DEVICE=cpu", *data, f"config.CHECKPOINT.DIR={run}"]
        config = compose([*composed, *overrides])[2]
        torch.manual_seed(0)
        network = build_model(AttrDict(config.MODEL), config.OPTIMIZER)
        run.mkdir(exist_ok=True)
        state = {"classy_state_dict": {"base_model": network.get_classy_state()}}
        torch.save(state, run / "model_final_checkpoint_phase0.torch")
        model = {key: value for key, value in AttrDict(config.MODEL).to_dict().items() if key != "FSDP_CONFIG"}
        record = {"MODEL": model, "DATA": {"TRAIN": {"TRANSFORMS": [{"name": "RandomResizedCrop", "size": size}]}}}
        (run / RECORD_NAME).write_text(json.dumps({"inputs": record}))
        return run

    return make


SMALL = "+config.MODEL.TRUNK.LIBRARY_NETWORK.ARGUMENTS={depth:2,embed_dim:48,num_heads:2}"


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize(
    "name, more",
    [
        ("torchvision:resnet18", []),
        ("torchvision:mobilenet_v3_small", []),
        ("timm:resnet10t", []),
        ("timm:vit_tiny_patch16_224", [SMALL]),
    ],
)
def test_its_library_loads_it(finished, tmp_path, name, more, head):
    folder = export_model(finished(name, *more, size=224), tmp_path / "export", head=head)
    card = json.loads((folder / "card.json").read_text())
    library = name.partition(":")[0]
    assert card["library"] == library
    lines = card["load"] if isinstance(card["load"], list) else card["load"].splitlines()
    found = {"images": torch.zeros(2, 3, 224, 224)}
    exec("\n".join(lines).replace("'model.safetensors'", repr(str(folder / "model.safetensors"))), found)
    outputs = found["logits" if head else "features"]
    assert outputs.shape == (2, 3) if head else outputs.ndim == 2


@pytest.mark.parametrize("kind", ["vit", "dinov2", "resnet"])
def test_transformers_loads_it(finished, tmp_path, kind):
    saved = of_transformers(kind, tmp_path / "model")
    folder = export_model(finished(saved.name, size=32), tmp_path / "export")
    assert json.loads((folder / "card.json").read_text())["library"] == "transformers"
