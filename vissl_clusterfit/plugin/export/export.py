"""``export_model``: a trained trunk, with its head where asked, as ``.safetensors``, ``.pth`` and ONNX, and a card."""

from __future__ import annotations

# isort: off
# Who exports may be no run of VISSL's: repairs come before it.
from vissl_clusterfit.plugin import bootstrap  # noqa: F401
# isort: on

import copy
import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit.config.network_names import TRUNK_NAME
from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import (
    ArtifactError,
    ConfigError,
    MissingDependencyError,
    TeacherError,
    naming_settings,
    problem,
)
from vissl_clusterfit.plugin.export import convolutional, library_networks, transformers_of_timm, video
from vissl_clusterfit.plugin.export.counterparts import Counterpart, State
from vissl_clusterfit.plugin.export.onnx_file import Outputs, write_onnx
from vissl_clusterfit.plugin.export.trained import TrainedNetwork, open_trained
from vissl_clusterfit.plugin.models.head import trunk_width
from vissl_clusterfit.plugin.training.record import CARD_NAME
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.atomic import whole_folder, write_file
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote

logger = logging.getLogger(__name__)

FORMS = ("auto", "torchvision", "timm", "transformers", "vissl")
_FORMAT = 1
#: How far outputs may be from those of the trained network, in absolute terms, and relative to the largest.
_TOLERANCE = 1e-5
#: The folder of an export is no setting of a config.
_NO_SETTINGS = {r" \(CLUSTERFIT\.OUTPUT_DIR, CLUSTERFIT\.FEATURES\.PATH\)": ""}
_KINDS: dict[str, Callable[..., Counterpart | str]] = {
    "resnet": convolutional.resnet,
    "regnet": convolutional.regnet,
    "vision_transformer": transformers_of_timm.vision_transformer,
    "convit": transformers_of_timm.convit,
    "xcit": transformers_of_timm.xcit,
    TRUNK_NAME: library_networks.library_network,
    **dict.fromkeys(video.RESNETS, video.video_resnet),
}


@dataclass(frozen=True)
class _Form:
    """What is written: tensors under their names, and the network that they were loaded into.

    Attributes:
        library: of the names.
        state: the tensors.
        pth: what ``model.pth`` holds.
        network: with the tensors, loaded with ``strict=True``.
        outputs: of that network and a batch.
        load: lines of Python, or what to set in VISSL.
        difference: the largest between its outputs and the trained network's.
        dim: of its outputs; None where it is not known without running it.
        why_not: why no other library has it, of VISSL's own form.
    """

    library: str
    state: State
    pth: Any
    network: nn.Module
    outputs: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    load: list[str]
    difference: float
    dim: int | None
    why_not: str = ""


def export_model(
    run_or_checkpoint: str | Path,
    target_folder: str | Path,
    form: str = "auto",
    head: bool = False,
    onnx: bool = False,
) -> Path:
    """Writes a trained network for other programs: ``model.safetensors``, ``model.pth``, ``card.json``, all or nothing.

    Args:
        run_or_checkpoint: the folder of a finished training, or any of its checkpoints.
        target_folder: a folder that is new or empty.
        form: the library that is to load it: torchvision, timm, transformers or vissl; "auto" for the one that has
            this architecture, and VISSL's own names where none has.
        head: with the classifier of the clusters (one linear layer, but for VISSL's form).
        onnx: ``model.onnx``, too, with any number of images in a batch.

    Returns:
        The folder.

    Raises:
        ClusterFitError: the training has not finished, the form cannot hold the network (the reason is said), outputs
            would differ by more than 1e-5, an extra is missing, or something is in the folder.
    """
    if form not in FORMS:
        raise ConfigError(problem("form", found=repr(form), allowed=" | ".join(FORMS)))
    goal = artifact_path(str(target_folder), "the folder of the export")
    if as_remote(goal):
        raise ConfigError(problem("the folder of the export", found=str(goal), allowed="a folder of this machine"))
    _require_free(goal)
    write_export(open_trained(run_or_checkpoint, head=head), goal, form, head, onnx)
    return goal


def write_export(trained: TrainedNetwork, goal: Path, form: str, head: bool, onnx: bool) -> None:
    """Writes a network that is open; arguments and errors are those of :func:`export_model`."""
    written = _form(trained, form, head)
    with naming_settings(_NO_SETTINGS), whole_folder(goal) as folder:
        _write(folder, trained, written, head, onnx)
    logger.info("%s is in %s, for %s.", trained.checkpoint, goal, written.library)


def _require_free(goal: Path) -> None:
    if goal.exists() and (not goal.is_dir() or any(goal.iterdir())):
        raise ArtifactError(f"{goal} is there already: name another folder for the export, or move it away.")


def _form(trained: TrainedNetwork, form: str, head: bool) -> _Form:
    name, size = trained.model["TRUNK"]["NAME"], trained.input_shape[-1]
    if form == "vissl":
        return _vissls(trained, head)
    kind = _KINDS.get(name)
    found = kind(trained.model, trained.network.trunk, size) if kind else f"no other library has the trunk {name}"
    if isinstance(found, Counterpart) and form in ("auto", found.library):
        found = _in_library(trained, found, head)
    elif isinstance(found, Counterpart):
        found = f"the trunk {name} of these settings is one of {found.library}"
    if isinstance(found, _Form):
        return found
    if form == "auto":
        return _vissls(trained, head, why_not=found)
    remedy = "Set form=vissl for VISSL's own names, or form=auto."
    raise TeacherError(f"{trained.checkpoint} cannot be written for {form}: {found}. {remedy}")


def _in_library(trained: TrainedNetwork, counterpart: Counterpart, head: bool) -> _Form | str:
    """The network under a library's names; as text, why it is another network there."""
    try:
        require(counterpart.library)
    except MissingDependencyError as error:
        return str(error).replace("\n   ", "")
    state = counterpart.rename(dict(trained.network.trunk.state_dict()))
    num_classes = 0
    if head:
        linear = _only_linear(trained.network.heads)
        if isinstance(linear, str):
            return linear
        if not counterpart.linear:
            return f"{counterpart.call.name} has no head"
        num_classes = linear.out_features
        bias = torch.zeros(num_classes) if linear.bias is None else linear.bias
        state |= {f"{counterpart.linear}.weight": linear.weight, f"{counterpart.linear}.bias": bias}
    state = _plain(state)
    try:
        network = counterpart.build(num_classes)
        network.load_state_dict(state, strict=True)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()
        return f"{counterpart.build_call(num_classes)} is another network: {' '.join(reason[:2])}"
    difference, dim = _difference(trained, network, counterpart)
    if not difference <= _TOLERANCE:  # nor NaN
        return f"{counterpart.build_call(num_classes)} gives other outputs, by {difference:.1e} of the largest"
    return _Form(
        library=counterpart.library,
        state=state,
        pth=state,
        network=network,
        outputs=counterpart.outputs,
        load=counterpart.lines(num_classes, "model.safetensors"),
        difference=difference,
        dim=dim,
    )


def _vissls(trained: TrainedNetwork, head: bool, why_not: str = "") -> _Form:
    """The network under VISSL's names: ``model.pth`` is what ``WEIGHTS_INIT.PARAMS_FILE`` takes as it is."""
    network = trained.network
    trunk, heads = _plain(dict(network.trunk.state_dict())), _plain(dict(network.heads.state_dict())) if head else {}
    state = {f"trunk.{name}": tensor for name, tensor in trunk.items()}
    state |= {f"heads.{name}": tensor for name, tensor in heads.items()}
    return _Form(
        library="vissl",
        state=state,
        pth={"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}}}},
        network=network,
        outputs=_outputs_of_vissls,
        load=["config.MODEL.WEIGHTS_INIT.PARAMS_FILE=model.pth", "and this card's model as config.MODEL"],
        difference=0.0,
        dim=None if head else _width(trained),
        why_not=why_not,
    )


def _width(trained: TrainedNetwork) -> int | None:
    try:  # clips take seconds to run
        return trunk_width(AttrDict({**copy.deepcopy(trained.whole_model), "_MODEL_INIT_SEED": 0}))
    except ConfigError:
        return None


def _outputs_of_vissls(network: Any, images: torch.Tensor) -> torch.Tensor:
    """Of the head where there is one, else of the trunk."""
    return (network(images) if len(network.heads) else network.trunk(images, []))[-1].flatten(1)


def _only_linear(heads: nn.Module) -> nn.Linear | str:
    layers = [layer for layer in heads.modules() if not list(layer.children()) and list(layer.parameters())]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear):
        return layers[0]
    return f"its head has {len(layers)} layers with weights, and that of other libraries is one linear layer"


def _plain(state: State) -> State:
    """Each tensor with memory of its own."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _difference(trained: TrainedNetwork, network: nn.Module, counterpart: Counterpart) -> tuple[float, int]:
    """The largest difference between the outputs of two networks, as a part of the largest above 1; and their width."""
    shape = counterpart.checked_on or trained.input_shape
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.inference_mode():
        expected = _outputs_of_vissls(trained.network, images)
        found = counterpart.outputs(network, images)
    if found.shape != expected.shape or not bool(expected.isfinite().all()):
        return float("inf"), 0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1)), expected.shape[1]


def _write(folder: Path, trained: TrainedNetwork, form: _Form, head: bool, onnx: bool) -> None:
    tensors = safetensors.torch.save(form.state, metadata={"format": "pt"})
    write_file(folder / "model.safetensors", lambda file: file.write(tensors))
    write_file(folder / "model.pth", lambda file: torch.save(form.pth, file))
    output = "logits" if head else "features"
    onnx_difference = None
    if onnx:
        module = Outputs(form.network, form.outputs).eval()
        onnx_difference = write_onnx(module, trained.input_shape, output, folder / "model.onnx")
    files = {path.name: {"sha256": artifacts.file_sha256(path)} for path in sorted(folder.iterdir())}
    artifacts.write_json(folder / CARD_NAME, _card(trained, form, output, files, onnx_difference))


def _card(
    trained: TrainedNetwork, form: _Form, output: str, files: Any, onnx_difference: float | None
) -> dict[str, Any]:
    of_vissl: dict[str, Any] = {}
    if form.library == "vissl":
        of_vissl = {"model": {key: trained.model[key] for key in ("TRUNK", "INPUT_TYPE")}}
        if output == "logits":
            of_vissl["model"]["HEAD"] = {"PARAMS": trained.model["HEAD"]["PARAMS"]}
    checked = {"outputs_against_trained_network": form.difference}
    if onnx_difference is not None:
        checked["onnx_against_pytorch"] = onnx_difference
    return {
        "format": _FORMAT,
        "library": form.library,
        "library_version": importlib.metadata.version(form.library),
        "load": form.load,
        **({"why_no_other_library": form.why_not} if form.why_not else {}),
        **of_vissl,
        "output": {"name": output, "dim": form.dim, "layer": "heads" if output == "logits" else "output of the trunk"},
        "input": {
            "shape": list(trained.input_shape),
            "colours": "rgb" if trained.model["INPUT_TYPE"] == "bgr" else trained.model["INPUT_TYPE"],
            "transforms": trained.transforms,
        },
        "largest_difference": checked,
        "made_from": trained.made_from(),
        "files": files,
    }
