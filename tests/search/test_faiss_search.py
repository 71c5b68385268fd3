import ast
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

import vissl_clusterfit
from vissl_clusterfit.errors import ConfigError, DataError, MissingDependencyError
from vissl_clusterfit.search.faiss_search import FaissSearch, require_faiss

PACKAGE = Path(vissl_clusterfit.__file__).parent


@pytest.mark.filterwarnings("error")
def test_labels_that_faiss_cannot_give_are_an_error(blobs):
    with pytest.raises(DataError, match=r"too large.*FEATURES\.NORMALIZE=true"):
        FaissSearch(blobs[:3]).labels(blobs * 1e25)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this faiss has GPU support")
@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_gpu_with_a_cpu_build_of_faiss_is_refused(blobs, device):
    with pytest.raises(ConfigError, match=r"MACHINE\.DEVICE: found gpu, but the installed faiss has no GPU support"):
        FaissSearch(blobs[:3], device=device)


@pytest.mark.skipif(
    not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() > 0,
    reason="needs faiss-gpu and no GPU",
)
def test_gpu_where_there_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"MACHINE\.DEVICE: found gpu, but faiss sees no GPU; allowed: cpu"):
        require_faiss("cuda")


@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="needs a GPU and faiss-gpu")
def test_gpu_equals_cpu(blobs):
    on_gpu, on_cpu = (FaissSearch(blobs[::25], device=device).nearest(blobs, 3) for device in ("cuda", "cpu"))
    np.testing.assert_array_equal(on_gpu[0], on_cpu[0])
    np.testing.assert_array_equal(on_gpu[1], on_cpu[1])


def test_unknown_device_is_a_fault_of_the_caller(blobs):
    with pytest.raises(ValueError, match="must be one of cpu, cuda, gpu, got 'tpu'"):
        require_faiss("tpu")


def test_missing_faiss_is_named_with_the_command(monkeypatch, blobs):
    monkeypatch.setitem(sys.modules, "faiss", None)  # what Python itself does for a module that must not be imported
    with pytest.raises(MissingDependencyError, match="pip install faiss-cpu"):
        FaissSearch(blobs[:3])


def test_only_one_module_imports_faiss():
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "faiss" for name in names):
                importers.add(path.relative_to(PACKAGE).as_posix())
    assert importers == {"search/faiss_search.py"}


def test_importing_the_core_does_not_import_faiss():
    code = "import sys, vissl_clusterfit.labels.assign; assert 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("offset", [0.0, 4_000.0, -1e5])
@pytest.mark.parametrize("count", [1, 3])
def test_a_common_offset_costs_no_digits(offset, count):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((3000, 48)) + offset).astype(np.float32)
    centroids = rows[:90].copy()
    labels, distances = FaissSearch(centroids).nearest(rows, count)
    exact = ((rows[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    expected = np.sort(exact, axis=1)[:, :count]
    np.testing.assert_allclose(np.take_along_axis(exact, labels, axis=1), expected, rtol=1e-4)
    np.testing.assert_allclose(distances, expected, rtol=1e-3, atol=1e-9)
    np.testing.assert_array_equal(FaissSearch(centroids).labels(rows), FaissSearch(centroids).nearest(rows, 1)[0][:, 0])
