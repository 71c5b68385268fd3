"""How the features of a run are computed: what artefacts say that are there, else what measures fastest here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vissl_clusterfit import distributed
from vissl_clusterfit.compute.choose import FEW_IMAGES, MOST_IMAGES, Work, candidates, choose, of_as_many_as_fit
from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.config.compute import AUTO, ComputeSettings
from vissl_clusterfit.features.batches import Encoder, ImageSource, encode_samples, stack_images
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.folders import names_in

#: Beside feature stores: what was measured, for processes and later commands that find no store yet.
NOTE_NAME = "compute.json"
# Of this process.
_FOUND: dict[tuple[str, str], Compute] = {}


def chosen_compute(
    settings: ComputeSettings,
    network: Callable[[], Mapping[str, Any]],
    made: Iterable[Path],
    measure: Callable[[], tuple[Compute, bool]],
    note: Path | None = None,
) -> Compute:
    """How the features of a network are computed. Called by all processes together; the primary one decides.

    ``auto`` is what features, codebook or labels of the same network say that are there, so that a resume on another
    machine goes on as it began, and splits are never mixed. Artefacts of releases before this setting say float32.

    Args:
        settings: ``config.CLUSTERFIT.COMPUTE``.
        network: gives the inputs of the network under its role, as in a manifest; called on the primary process.
        made: folders of artefacts that may be there, in the order in which they are asked.
        measure: :func:`measured_compute`; called only where there is no artefact and no note.
        note: a file that keeps what was measured, where some time passes before there is an artefact.

    Raises:
        ConfigError: the settings ask for what the device cannot do.
    """

    def find() -> Compute:
        if settings.precision != AUTO:
            return candidates(settings, "cpu")[0]
        wanted = dict(network())
        found = next((Compute.of_inputs(inputs) for inputs in _inputs(made) if _are_of(inputs, wanted)), None)
        if found is None:
            found = measure()[0] if note is None else _noted(note, wanted, measure)
        last = found.channels_last if settings.channels_last == AUTO else bool(settings.channels_last)
        return dataclasses.replace(found, channels_last=last, compiled=settings.compile)

    return distributed.on_primary(find)


def measured_compute(
    settings: ComputeSettings, images: ImageSource, build: Callable[[Compute], Encoder], device: torch.device
) -> tuple[Compute, bool]:
    """What is fastest on a device for the first few images of a data set, and whether it was measured.

    On a card for many of these few.

    Args:
        settings: ``config.CLUSTERFIT.COMPUTE``.
        images: as they are extracted.
        build: gives the network as a function of images.
        device: on which it computes.
    """
    some = stack_images([images[index][0] for index in range(min(len(images), FEW_IMAGES))]).to(device)
    prepared = []

    def measure(number: int) -> Compute:
        batch = some[torch.arange(number, device=device) % len(some)]

        def prepare(compute: Compute) -> Work:
            encode = build(compute)
            prepared.append(compute)

            def work() -> torch.Tensor:
                with torch.no_grad():
                    return encode_samples(encode, batch).float()

            return work

        return choose(settings, device, prepare, number)

    most = MOST_IMAGES if device.type == "cuda" else len(some)
    chosen = of_as_many_as_fit(measure, most)
    return chosen, len(set(prepared)) > 1


def stores_beside(folder: Path) -> Iterator[Path]:
    """The place of a feature store, and then of all else in the same folder."""
    yield folder
    yield from (folder.parent / name for name in sorted(names_in(folder.parent) - {folder.name}))


def _inputs(folders: Iterable[Path]) -> Iterator[Mapping[str, Any]]:
    """What the features are made from that artefacts are, or are made from."""
    for folder in folders:
        if artifacts.has_manifest(folder):
            inputs = artifacts.read_manifest(folder)["inputs"]
            features = inputs.get("features", inputs)
            if isinstance(features, dict):
                yield features


def _are_of(inputs: Mapping[str, Any], network: Mapping[str, Any]) -> bool:
    return all(inputs.get(role) == of for role, of in network.items())


def _noted(note: Path, network: Mapping[str, Any], measure: Callable[[], tuple[Compute, bool]]) -> Compute:
    """What the note says of a network; else what is measured now, and noted."""
    wanted = artifacts.content_hash(network)

    def read() -> Compute | None:
        noted = artifacts.read_json(note) if note.is_file() else {}
        return Compute.of_inputs(noted) if noted.get("network") == wanted else None

    key = str(note), wanted
    if (found := read() or _FOUND.get(key)) is None:
        found, is_measured = measure()
        if is_measured:  # what is small is so wherever one asks
            artifacts.write_json(note, {"network": wanted, **found.inputs()}, new=not note.is_file())
            found = read() or found  # another run may have been first
        _FOUND[key] = found
    return found
