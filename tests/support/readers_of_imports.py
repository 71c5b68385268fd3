"""Readers of names, features and labels that users bring."""

from collections.abc import Callable
from pathlib import Path

import mutations
import numpy as np
import safetensors.torch
import torch
from feature_files import npy_bytes
from guarded_reading import Reader, new_folder, torch_file, write_file
from readers_of_artifacts import NAMES, ROWS, open_store

from vissl_clusterfit.features.imports import import_features, read_name_list
from vissl_clusterfit.labels.export import export_labels
from vissl_clusterfit.labels.imports import import_labels

READERS: dict[str, Reader] = {}


for _ending, _content in {
    ".txt": "\n".join(NAMES).encode(),
    ".csv": "\n".join(["name,label", *(f'"{name}",{n}' for n, name in enumerate(NAMES))]).encode(),
    ".tsv": "\n".join(["name", *NAMES]).encode(),
    ".npy": npy_bytes(np.array(NAMES)),
}.items():
    READERS[f"list of names, {_ending}"] = Reader(write_file(f"names{_ending}", _content), read_name_list)


def _features(path: Path) -> None:
    with new_folder() as folder:
        store = import_features(path, folder)
        store.read(0, store.num_samples)


def _npz(folder: Path) -> Path:
    np.savez(folder / "rows.npz", features=ROWS)
    return folder / "rows.npz"


def _parquet(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"name": NAMES, "rows": list(ROWS)}), folder / "rows.parquet")
    return folder / "rows.parquet"


READERS["features, .npy"] = Reader(write_file("rows.npy", npy_bytes(ROWS)), _features)
READERS["features, .npz"] = Reader(_npz, _features, mutations.in_zip)
READERS["features, .parquet"] = Reader(_parquet, _features)
READERS["features, .pt"] = Reader(torch_file("rows.pt", {"rows": torch.from_numpy(ROWS)}), _features, mutations.in_zip)
READERS["features, .safetensors"] = Reader(
    write_file("rows.safetensors", safetensors.torch.save({"rows": torch.from_numpy(ROWS)})), _features
)


def _exported(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with new_folder() as place:
            labels = import_labels({name: n % 7 for n, name in enumerate(NAMES)}, place, open_store())
            return Path(export_labels(labels, folder / f"labels{ending}"))

    return make


def _labels(path: Path) -> None:
    with new_folder() as folder:
        import_labels(path, folder, open_store(), names=NAMES if path.suffix == ".npy" else None)


for _ending, _inside in {
    ".csv": mutations.in_bytes,
    ".jsonl": mutations.in_json_lines,
    ".parquet": mutations.in_bytes,
}.items():
    READERS[f"labels, {_ending}"] = Reader(_exported(_ending), _labels, _inside)


READERS["labels, .npy"] = Reader(write_file("labels.npy", npy_bytes(np.arange(40) % 7)), _labels)
