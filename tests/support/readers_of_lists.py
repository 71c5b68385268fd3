"""Readers of lists, labels and arrays that settings name, and of plain pickles and taxonomies."""

import io
import json
import pickle
from pathlib import Path

import mutations
import numpy as np
from feature_files import npy_bytes
from guarded_reading import Reader, write_file
from readers_of_artifacts import ROWS

from vissl_clusterfit.plugin.data.named_files import read_file_list, read_label_file
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_array, load_plain_pickle
from vissl_clusterfit.transfer.taxonomy import Taxonomy
from vissl_clusterfit.video.file_lists import read_list

READERS: dict[str, Reader] = {}

# Files that VISSL's data sources name.
PATHS = [f"images/{index}.jpg" for index in range(20)]
for _ending, _content, _inside in (
    (".npy", npy_bytes(np.array(PATHS)), mutations.in_bytes),
    (".json", json.dumps(PATHS).encode(), mutations.in_json),
    (".yaml", "".join(f"- {path}\n" for path in PATHS).encode(), mutations.in_bytes),
    (".pkl", pickle.dumps(PATHS, 2), mutations.in_bytes),
):
    READERS[f"list of files, {_ending}"] = Reader(
        write_file(f"list{_ending}", _content),
        lambda path: read_file_list(str(path), "DATA_PATHS", mmap=False),
        _inside,
    )


READERS["file of labels"] = Reader(
    write_file("labels.npy", npy_bytes(np.arange(20))),
    lambda path: read_label_file(str(path), "LABEL_PATHS", mmap=True),
)


for _ending, _content in {
    ".txt": "".join(f"{path}\t{n},3\n" for n, path in enumerate(PATHS)).encode(),
    ".npy": npy_bytes(np.array(PATHS)),
}.items():
    READERS[f"list of videos, {_ending}"] = Reader(
        write_file(f"videos{_ending}", _content),
        lambda path: read_list(str(path), lambda name: io.BytesIO(Path(name).read_bytes())),
    )


PLAIN = {"data": ROWS.astype(np.uint8), "labels": [0, 1], "one": np.float64(0.5), "raw": b"\0", 1: (None, True, "ü")}


for _protocol in (0, 2, 4, 5):
    READERS[f"plain pickle, protocol {_protocol}"] = Reader(
        write_file("plain.pkl", pickle.dumps(PLAIN, _protocol)),
        lambda path: load_plain_pickle(io.BytesIO(path.read_bytes())),
        refuses=(UnsafeFileError,),
    )


READERS["array"] = Reader(
    write_file("array.npy", npy_bytes(ROWS)), lambda path: load_array(path), refuses=(UnsafeFileError, OSError)
)
LEVELS = {"levels": ["kingdom", "genus"], "classes": [["Plantae", "Quercus"], ["Animalia", "Parus"]]}
READERS["taxonomy"] = Reader(write_file("taxonomy.json", json.dumps(LEVELS).encode()), Taxonomy.load, mutations.in_json)
