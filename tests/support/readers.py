"""Every reader of files that come from elsewhere, or from a run that was killed: a valid file, and how it is read."""

import contextlib
import dataclasses
import functools
import io
import json
import pickle
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mutations
import numpy as np
import publishers
import pytest
import safetensors.torch
import torch
from tiny_run import make_run
from vissl.config import AttrDict

import vissl_clusterfit.plugin.bootstrap  # noqa: F401  # isort: split
from vissl_clusterfit.clustering import fit
from vissl_clusterfit.clustering.checkpoints import last_checkpoint, state_of
from vissl_clusterfit.clustering.codebook import Codebook, codebook_inputs
from vissl_clusterfit.clustering.two_level_files import FineFiles
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.datasets.archives import Sources
from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.datasets.preparation import prepare
from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.features.imports import import_features, read_name_list
from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.features.sample_names import NameList, names_of
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.labels import balanced
from vissl_clusterfit.labels.export import export_labels
from vissl_clusterfit.labels.files import LabelFiles
from vissl_clusterfit.labels.imports import import_labels
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.models.weight_files import load_state_dict
from vissl_clusterfit.plugin.data.named_files import read_file_list, read_label_file
from vissl_clusterfit.plugin.training import checkpoints, progress, record
from vissl_clusterfit.report.results import ResultRow, append_results, read_results, read_runs
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.leases import Lease, is_held
from vissl_clusterfit.storage.result_cache import ResultCache
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_array, load_plain_pickle
from vissl_clusterfit.transfer.taxonomy import Taxonomy
from vissl_clusterfit.verification.verify import verify_artifact
from vissl_clusterfit.video.file_lists import read_list


@dataclasses.dataclass(frozen=True)
class Reader:
    """One way in.

    Attributes:
        make: Writes a valid file into an empty folder, with all that belongs to it, and gives its path.
        read: Reads it.
        inside: Changes what the format wraps: values of JSON, what is compressed.
        refuses: What the reader may raise.
        readable: Whether the valid file is read; not where it could run code.
        trusts_sizes: Whether it asks for what memory the file names, and refuses where there is less:
            PyTorch's own and SciPy's.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    inside: Callable[[bytes, list[mutations.Step]], bytes] = mutations.in_bytes
    refuses: tuple[type[Exception], ...] = (ClusterFitError,)
    readable: bool = True
    trusts_sizes: bool = False


READERS: dict[str, Reader] = {}
_SECONDS = 10.0
_MEMORY_BYTES = 1 << 30


def read(reader: Reader, path: Path, content: bytes) -> bool:
    """Whether a file with this content is read; if not, it is refused as it should be.

    Raises:
        Exception: whatever else the reader raises.
        AssertionError: it took what memory the file asked for, or longer than some seconds.
    """
    path.write_bytes(content)
    with bounded():
        try:
            reader.read(path)
            return True
        except reader.refuses as error:
            if _asked_for_too_much(error) and not reader.trusts_sizes:
                raise AssertionError("it took the file at its word") from error
            return False


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Lets a block have a gigabyte more than the process has, and a few seconds of its time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def too_long(*_: object) -> None:
        raise AssertionError(f"it takes more than {_SECONDS:.0f} seconds")

    before = signal.signal(signal.SIGPROF, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)


def _asked_for_too_much(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


@contextlib.contextmanager
def _new_folder() -> Iterator[Path]:
    """A folder, around which nothing may be written."""
    with tempfile.TemporaryDirectory(prefix="read-") as around:
        folder = Path(around, "below", "folder")
        folder.mkdir(parents=True)
        yield folder
        assert [*Path(around).iterdir()] == [folder.parent], "it wrote outside its folder"
        assert [*folder.parent.iterdir()] == [folder], "it wrote outside its folder"


@functools.cache
def _run() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="readers-"))
    make_run(folder / "run", top_clusters=3)
    for split in ("train", "test"):
        _with_names(folder / "run/features" / split)
    return folder / "run"


def _with_names(store: Path) -> None:
    opened = FeatureStore.open(store)
    names = NameList()
    samples = hash_samples(names.passing(f"{store.name} {index}" for index in range(opened.num_samples)))
    assert np.array_equal(samples, opened.samples)
    names.write(store)


def _of_run(artifact: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(_run(), folder / "run")
        return folder / "run" / artifact / file

    return make


def _store() -> FeatureStore:
    return FeatureStore.open(_run() / "features/test")


def _artifact(open_artifact: Callable[[Path], object]) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        verify_artifact(path.parent)  # which says what is wrong, and raises nothing
        open_artifact(path.parent)

    return read


def _all_rows(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.read(0, store.num_samples)


def _all_labels(folder: Path) -> None:
    labels = PseudoLabels.open(folder)
    assert len(labels.labels) == len(labels.distances) == len(labels.margins) == labels.num_samples


for _name, _artifact_folder, _open, _files in (
    ("features", "features/test", _all_rows, ("rows-000000000000-000000000040.npy", "samples.npy", "unreadable.npy")),
    ("codebook", "codebook", Codebook.open, ("centroids.npy", "counts.npy")),
    ("labels", "labels/test", _all_labels, ("labels.npy", "distances.npy", "sizes.npy", "nearest.npy")),
):
    READERS[f"manifest of {_name}"] = Reader(
        _of_run(_artifact_folder, "manifest.json"), _artifact(_open), mutations.in_manifest
    )
    for _file in _files:
        READERS[f"{_name}, {_file}"] = Reader(_of_run(_artifact_folder, _file), _artifact(_open))


def _write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _json(name: str, content: object) -> Callable[[Path], Path]:
    return _write(name, json.dumps(content).encode())


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# Names, features and labels from elsewhere.
NAMES = [f"test {index}" for index in range(40)]
ROWS = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
READERS["names"] = Reader(
    _of_run("features/test", "names.jsonl.gz"), lambda path: names_of(path.parent), mutations.in_gzip
)
for _ending, _content in {
    ".txt": "\n".join(NAMES).encode(),
    ".csv": "\n".join(["name,label", *(f'"{name}",{n}' for n, name in enumerate(NAMES))]).encode(),
    ".tsv": "\n".join(["name", *NAMES]).encode(),
    ".npy": _npy(np.array(NAMES)),
}.items():
    READERS[f"list of names, {_ending}"] = Reader(_write(f"names{_ending}", _content), read_name_list)


def _features(path: Path) -> None:
    with _new_folder() as folder:
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


def _saved(name: str, content: object, **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(content, folder / name, **options)
        return folder / name

    return make


READERS["features, .npy"] = Reader(_write("rows.npy", _npy(ROWS)), _features)
READERS["features, .npz"] = Reader(_npz, _features, mutations.in_zip)
READERS["features, .parquet"] = Reader(_parquet, _features)
READERS["features, .pt"] = Reader(_saved("rows.pt", {"rows": torch.from_numpy(ROWS)}), _features, mutations.in_zip)
READERS["features, .safetensors"] = Reader(
    _write("rows.safetensors", safetensors.torch.save({"rows": torch.from_numpy(ROWS)})), _features
)


def _exported(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with _new_folder() as place:
            labels = import_labels({name: n % 7 for n, name in enumerate(NAMES)}, place, _store())
            return Path(export_labels(labels, folder / f"labels{ending}"))

    return make


def _labels(path: Path) -> None:
    with _new_folder() as folder:
        import_labels(path, folder, _store(), names=NAMES if path.suffix == ".npy" else None)


for _ending, _inside in {
    ".csv": mutations.in_bytes,
    ".jsonl": mutations.in_json_lines,
    ".parquet": mutations.in_bytes,
}.items():
    READERS[f"labels, {_ending}"] = Reader(_exported(_ending), _labels, _inside)
READERS["labels, .npy"] = Reader(_write("labels.npy", _npy(np.arange(40) % 7)), _labels)

# Files that VISSL's data sources name.
PATHS = [f"images/{index}.jpg" for index in range(20)]
for _ending, _content, _inside in (
    (".npy", _npy(np.array(PATHS)), mutations.in_bytes),
    (".json", json.dumps(PATHS).encode(), mutations.in_json),
    (".yaml", "".join(f"- {path}\n" for path in PATHS).encode(), mutations.in_bytes),
    (".pkl", pickle.dumps(PATHS, 2), mutations.in_bytes),
):
    READERS[f"list of files, {_ending}"] = Reader(
        _write(f"list{_ending}", _content), lambda path: read_file_list(str(path), "DATA_PATHS", mmap=False), _inside
    )
READERS["file of labels"] = Reader(
    _write("labels.npy", _npy(np.arange(20))), lambda path: read_label_file(str(path), "LABEL_PATHS", mmap=True)
)
for _ending, _content in {
    ".txt": "".join(f"{path}\t{n},3\n" for n, path in enumerate(PATHS)).encode(),
    ".npy": _npy(np.array(PATHS)),
}.items():
    READERS[f"list of videos, {_ending}"] = Reader(
        _write(f"videos{_ending}", _content),
        lambda path: read_list(str(path), lambda name: io.BytesIO(Path(name).read_bytes())),
    )
PLAIN = {"data": ROWS.astype(np.uint8), "labels": [0, 1], "one": np.float64(0.5), "raw": b"\0", 1: (None, True, "ü")}
for _protocol in (0, 2, 4, 5):
    READERS[f"plain pickle, protocol {_protocol}"] = Reader(
        _write("plain.pkl", pickle.dumps(PLAIN, _protocol)),
        lambda path: load_plain_pickle(io.BytesIO(path.read_bytes())),
        refuses=(UnsafeFileError,),
    )
READERS["array"] = Reader(
    _write("array.npy", _npy(ROWS)), lambda path: load_array(path), refuses=(UnsafeFileError, OSError)
)

# Weights and checkpoints.
STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2)}
VISSLS = {
    "classy_state_dict": {"base_model": {"model": {"trunk": STATE, "heads": {}}}},
    "phase_idx": 3,
    "config": AttrDict({"a": 1}),
    "loss": np.float64(0.5),
}


def _scripted(folder: Path) -> Path:
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "weights.pt")
    return folder / "weights.pt"


def _weights(path: Path) -> None:
    load_state_dict(str(path))


def _checkpoint(path: Path) -> None:
    checkpoints._why_damaged.cache_clear()  # it knows a file by its time, of some milliseconds
    if not checkpoints.why_damaged(path):
        checkpoints.phase_of(str(path))


CHECKPOINT = "model_final_checkpoint_phase3.torch"
READERS["weights, .torch"] = Reader(_saved("weights.torch", VISSLS), _weights, mutations.in_zip)
READERS["weights, .pth of before PyTorch 1.6"] = Reader(
    _saved("weights.pth", STATE, _use_new_zipfile_serialization=False), _weights, trusts_sizes=True
)
READERS["weights, .safetensors"] = Reader(_write("weights.safetensors", safetensors.torch.save(STATE)), _weights)
READERS["weights, TorchScript"] = Reader(_scripted, _weights, mutations.in_zip, readable=False)
READERS["checkpoint"] = Reader(_saved(CHECKPOINT, VISSLS), _checkpoint, mutations.in_zip)
READERS["checkpoint of before PyTorch 1.6"] = Reader(
    _saved(CHECKPOINT, VISSLS, _use_new_zipfile_serialization=False), _checkpoint, trusts_sizes=True
)


# What trainings, evaluations and begun work leave.
INPUTS = {"MODEL": {"TRUNK": {}}, "DATA": {"TRAIN": {}}, record._WEIGHTS: {"sha256": "0"}, "SEED_VALUE": 1}


def _training(folder: Path) -> Path:
    (folder / CHECKPOINT).touch()
    content = {"format": 1, "engine": "train", "weights": "", "inputs": INPUTS}
    (folder / record.RECORD_NAME).write_text(json.dumps(content))
    return folder / record.RECORD_NAME


def _record(path: Path) -> None:
    record.training_beside(str(path.parent / CHECKPOINT))
    config = AttrDict({"MODEL": {"WEIGHTS_INIT": {"PARAMS_FILE": ""}}})
    record.check_record(config, str(path.parent), INPUTS)


METRICS = [{"phase_idx": number, "train_accuracy_list_meter": {"top_1": {"0": 50.5}}} for number in range(3)]


def _metrics(path: Path) -> None:
    progress.read_metrics(str(path.parent))
    progress.forget_phases_after(str(path.parent), 1)


def _results(folder: Path) -> Path:
    row = ResultRow("a model", "linear", "CIFAR-100", "test", "top-1 accuracy", 0.5, "as published", 0)
    append_results(folder, [row, dataclasses.replace(row, seed=1)])
    return folder / "results.json"


def _rows_of_results(path: Path) -> None:
    read_runs([path])
    append_results(path.parent, read_results(path.parent)[:1])


def _lease(folder: Path) -> Path:
    lease = Lease(folder / "work.json")
    assert lease.acquire()
    content = lease.path.read_bytes()
    lease.release()
    return _write("work.json", content)(folder)


def _held(path: Path) -> None:
    is_held(path)
    lease = Lease(path)
    lease.holder()
    lease.acquire()
    lease.release()


def _cached(path: Path) -> None:
    ResultCache(path.parent, {"data": "abc"}).get("piece", {"C": 1.0}, lambda: {"score": 0.5})


def _cache(folder: Path) -> Path:
    _cached(folder / "piece.json")
    return folder / "piece.json"


READERS["record of a training"] = Reader(_training, _record, mutations.in_json)
READERS["metrics of a training"] = Reader(
    _write(progress.METRICS_NAME, b"".join(json.dumps(row).encode() + b"\n" for row in METRICS)),
    _metrics,
    mutations.in_json_lines,
)
READERS["results"] = Reader(_results, _rows_of_results, mutations.in_json)
READERS["lease"] = Reader(_lease, _held, mutations.in_json)
READERS["cached result"] = Reader(_cache, _cached, mutations.in_json)
READERS["taxonomy"] = Reader(
    _json(
        "taxonomy.json", {"levels": ["kingdom", "genus"], "classes": [["Plantae", "Quercus"], ["Animalia", "Parus"]]}
    ),
    Taxonomy.load,
    mutations.in_json,
)
SAMPLES = hash_samples(NAMES)


def _begun_store(folder: Path) -> FeatureStoreWriter:
    return FeatureStoreWriter(folder, {"dataset": {}}, SAMPLES, shard_size=40, dtype="float32")


def _done_shard(folder: Path) -> Path:
    writer = _begun_store(folder)
    writer.begin()
    (shard,) = writer.missing()
    writer.write(shard, ROWS, {3: "truncated"})
    return folder / shard.done_file


def _finish(path: Path) -> None:
    writer = _begun_store(path.parent)
    writer.begin()
    writer.finish()


READERS["shard that is done"] = Reader(_done_shard, _finish, mutations.in_json)
SETTINGS = ClusterFitConfig(num_clusters=3, num_iter=4)


def _iterations(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit, "remove_folder", lambda _: None)  # what a clustering leaves that was killed
            fit.fit_codebook(_store(), SETTINGS, "cpu", folder)
        (last,) = (folder / fit.IN_PROGRESS).iterdir()
        return last / file

    return make


def _resume(path: Path) -> None:
    store = _store()
    place = last_checkpoint(path.parent.parent, codebook_inputs(store.inputs, SETTINGS), store.content_hash)
    if place is not None:
        state_of(Codebook.open(place))


READERS["manifest of an iteration"] = Reader(_iterations("manifest.json"), _resume, mutations.in_manifest)
READERS["iteration, counts.npy"] = Reader(_iterations("counts.npy"), _resume)


def _prices(folder: Path) -> Path:
    path = folder / "prices.npy"
    _bounded(path)
    return path


def _bounded(path: Path) -> None:
    codebook = Codebook.open(_run() / "codebook")
    balanced.solve(_store(), codebook, "cpu", 1.1, path, "a run")


READERS["prices"] = Reader(_prices, _bounded)


def _fine(folder: Path) -> Path:
    state = state_of(Codebook.open(_iterations("manifest.json")(folder).parent))[0]
    FineFiles(folder, "a run").save(0, state)
    return folder / "fine-000000.json"


READERS["fine clustering"] = Reader(
    _fine, lambda path: FineFiles(path.parent, "a run").load(0, 40, 3), mutations.in_json
)


def _labelling(path: Path) -> None:
    with LabelFiles(path.parent, 40, "a run") as files:
        assert 0 <= files.num_done <= 40


def _begun_labelling(folder: Path) -> Path:
    with LabelFiles(folder, 40, "a run") as files:
        files.append(*(np.zeros(20, dtype) for dtype in (np.int64, np.float32, np.float32)))
        files._mark()
    return folder / "progress.json"


READERS["progress of a labelling"] = Reader(_begun_labelling, _labelling, mutations.in_json)


# Publishers' archives, and what is in them.
def _publisher(name: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "archives").mkdir()
        publishers.WRITERS[name](folder / "archives")
        _prepared(name)(folder / "archives")
        return next(filter(Path.is_file, (folder / "data" / name).rglob(file)), folder / "archives" / file)

    return make


def _prepared(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        root = next(above for above in path.parents if (above / "archives").is_dir())
        artifacts.remove_manifest(root / "data" / name)
        prepare(name, RECIPES[name], root / "archives", root / "data", subset=True)

    return read


for _name, _file, _inside in (
    ("cars", "cars_annos.mat", mutations.in_bytes),
    ("cifar100", "train", mutations.in_bytes),
    ("cifar100", "meta", mutations.in_bytes),
    ("flowers102", "setid.mat", mutations.in_bytes),
    ("flowers102", "imagelabels.mat", mutations.in_bytes),
    ("food101", "train.txt", mutations.in_bytes),
    ("imagenet1k", "meta.mat", mutations.in_bytes),
    ("imagenet1k", "ILSVRC2012_validation_ground_truth.txt", mutations.in_bytes),
    ("inat2018", "categories.json", mutations.in_json),
    ("inat2018", "train2018.json", mutations.in_json),
    ("inat2019", "val2019.json", mutations.in_json),
    ("places205", "train_places205.csv", mutations.in_bytes),
    ("places365", "categories_places365.txt", mutations.in_bytes),
    ("voc07", "bird_trainval.txt", mutations.in_bytes),
):
    READERS[f"{_name}, {_file}"] = Reader(
        _publisher(_name, _file), _prepared(_name), _inside, trusts_sizes=_file.endswith(".mat")
    )

FILES = {f"a/{number}.txt": b"content" * number for number in range(4)}


def _unpack(path: Path) -> None:
    with _new_folder() as folder:
        Sources(path.parent, folder, {path.name: ""}, check_sums=False).folder(path.name, of_tars="tars" in path.name)


READERS["archive, .tar"] = Reader(_write("files.tar", publishers.tar_bytes(FILES)), _unpack)
READERS["archive, .tar.gz"] = Reader(
    _write("files.tar.gz", publishers.tar_bytes(FILES, "w:gz")), _unpack, mutations.in_gzip
)
READERS["archive of archives"] = Reader(
    _write("tars.tar", publishers.tar_bytes({"n01.tar": publishers.tar_bytes(FILES)})), _unpack
)
