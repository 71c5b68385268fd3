"""Features of thirty samples in files of every format, as users have them."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from safetensors.torch import save_file

ROWS = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
NAMES = [f"ordner mit ä/{number}\n.jpg" for number in range(30)]


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def save(path: Path, rows: np.ndarray = ROWS) -> Path:
    """Writes rows in the format that the path ends with."""
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, features=rows)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(rows), path)
    elif path.suffix == ".pth":
        torch.save({"features": torch.from_numpy(rows), "epoch": 3}, path)
    elif path.suffix == ".safetensors":
        save_file({"features": torch.from_numpy(rows)}, path)
    else:
        flat = pyarrow.array(rows.reshape(-1))
        column = pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        pyarrow.parquet.write_table(pyarrow.table({"features": column}), path)
    return path


FORMATS = [".npy", ".npz", ".pt", ".pth", ".safetensors", ".parquet"]
