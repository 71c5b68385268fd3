"""What a process imports: a command that is refused nothing that takes seconds, a run nothing that it does not use."""

import json
import os
import subprocess
import sys

import pytest
import torch

#: PyTorch and what comes with it, and VISSL's own modules beside its package of defaults.
SECONDS = {"torch", "torchvision", "classy_vision", "fvcore", "vissl.engines", "vissl.utils.misc", "scipy", "sklearn"}
#: What only some engines, targets or sources need.
UNUSED = {"sklearn", "av", "matplotlib", "submitit", "faiss", "pandas", "torch._dynamo", "triton"}
#: It warns on the screen of a machine without a GPU.
UNUSED |= set() if torch.cuda.is_available() else {"torch.utils.cpp_extension"}
_RUN = """
import json, sys
from vissl_clusterfit.launch.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def run(*overrides: str, cwd) -> tuple[int, set[str], str]:
    """Exit code, all modules that were imported, and the errors."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *overrides],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules), done.stderr


@pytest.mark.parametrize(
    "mistake",
    [
        ["config=nosuch"],
        ["config=clusterfit/quickstart/clusterfit", "config.OPTIMIZER.num_epoch=3"],
        ["config=clusterfit/quickstart/clusterfit", "engine_name=clusterfit_lable"],
        ["config=clusterfit/quickstart/clusterfit", "config.CLUSTERFIT.NUM_CLUSTERS=0"],
        ["config=clusterfit/quickstart/clusterfit", "config.SEED_VALUE=1,-1"],
        ["config=benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN", "+config/clusterfit=student"],
    ],
    ids=" ".join,
)
def test_a_command_that_is_refused_has_imported_nothing_that_takes_seconds(tmp_path, mistake):
    code, modules, errors = run(*mistake, cwd=tmp_path)
    assert (code, errors.count("error: ")) == (2, 1), errors
    assert modules & SECONDS == set()


def test_the_parent_of_a_sweep_imports_neither_pytorch_nor_vissl(tmp_path):
    mistake = f"config.CHECKPOINT.DIR={tmp_path}/runs"  # each of its runs finds no weights of a teacher
    code, modules, errors = run(
        "config=clusterfit/quickstart/clusterfit", "config.SEED_VALUE=1,2", mistake, cwd=tmp_path
    )
    assert code == 2, errors
    assert modules & SECONDS == set()


def test_an_extraction_imports_only_what_it_uses(tmp_path, student_overrides):
    folder = f"config.CHECKPOINT.DIR={tmp_path / 'run'}"
    code, modules, errors = run(*student_overrides, "engine_name=clusterfit_extract", folder, cwd=tmp_path)
    assert code == 0, errors
    assert "torch" in modules
    assert modules & UNUSED == set()
