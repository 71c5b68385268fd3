"""A training among what should not harm it: folders named like commands, modules in the working directory, secrets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from vissl_clusterfit.config.override_text import as_override
from vissl_clusterfit.launch.slurm.executor import _PYTHON
from vissl_clusterfit.plugin.data.local_copies import _PREFIX

NAME = "my data; touch pwned1 $(touch pwned2) `touch pwned3` 'q' \"Q\""
MODULES = ("submitit", "torch", "vissl", "numpy", "pickle", "multiprocessing", "runpy", "signal", "selectors")
SECRETS = {
    "WANDB_API_KEY": "mysecret1",
    "HOME_OF_MINE": "mysecret2",
    "SLURM_JWT": "https://me:mysecret3@host",
    "CUDA_AUTH_TOKEN": "mysecret4",
}
# Runs in every Python process of the run, as its first module.
AUDIT = """
import json, os, sys

def note(event, args):
    if event in ("os.system", "subprocess.Popen", "shutil.rmtree"):
        line = json.dumps([event, [str(arg) for arg in args[:2]]]) + "\\n"
        file = os.open(os.environ["AUDITED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)

sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory, images) -> Path:
    folder = tmp_path_factory.mktemp("surroundings")
    shutil.copytree(images, folder / NAME)
    here, fast, audit = (folder / name for name in ("here", "fast disk", "audit"))
    for place in (here / "data", fast / "data", audit):
        place.mkdir(parents=True)
        (place / "kept.txt").write_text("kept")
    (audit / "sitecustomize.py").write_text(AUDIT)
    for module in MODULES:
        (here / f"{module}.py").write_text(
            f"open({str(folder / 'ran')!r}, 'a').write({module!r})\nraise SystemExit(7)\n"
        )
    return folder


@pytest.fixture(scope="module")
def run(surroundings, student_overrides) -> subprocess.CompletedProcess:
    """Two processes, each with a data worker, whose data are copied."""
    split = "config.DATA.TRAIN"
    return subprocess.run(
        [
            sys.executable,
            ROOT / "tools/run_distributed_engines.py",
            *student_overrides,
            as_override(f"{split}.DATA_PATHS", [str(surroundings / NAME)]),
            f"{split}.COPY_TO_LOCAL_DISK=true",
            as_override(f"{split}.COPY_DESTINATION_DIR", str(surroundings / "fast disk")),
            "config.MULTI_PROCESSING_METHOD=forkserver",
            "config.DATA.NUM_DATALOADER_WORKERS=1",
            "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
            f"config.CHECKPOINT.DIR={surroundings / 'run'}",
        ],
        cwd=surroundings / "here",
        env={
            **os.environ,
            **SECRETS,
            "OMP_NUM_THREADS": "1",
            "AUDITED": str(surroundings / "audited"),
            "PYTHONPATH": f"{surroundings / 'audit'}:{os.environ.get('PYTHONPATH', ROOT)}",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_does_what_it_does_elsewhere(run, surroundings, student_run):
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    for name in ("labels.npy", "distances.npy", "manifest.json"):
        found, expected = (folder / "clusterfit/labels/train" / name for folder in (surroundings / "run", student_run))
        assert found.read_bytes() == expected.read_bytes()


def test_no_name_is_taken_for_a_command(run, surroundings):
    assert list(surroundings.rglob("pwned*")) == []
    audited = [json.loads(line) for line in (surroundings / "audited").read_text().splitlines()]
    started = [args for event, args in audited if event == "subprocess.Popen"]
    assert all(Path(executable).name not in ("sh", "bash") for executable, _ in started), started
    assert [args for event, args in audited if event == "os.system"] == []
    removed = [args[0] for event, args in audited if event == "shutil.rmtree"]
    # Its own copies; and nameless folders of the launcher and of PyTorch, which they make in the system's.
    assert any(path.startswith(str(surroundings / "fast disk" / _PREFIX)) for path in removed)
    assert [path for path in removed if path.startswith(str(surroundings / "here"))] == []


def test_nothing_is_removed_but_the_copies(run, surroundings):
    assert [path.name for path in (surroundings / "fast disk").iterdir()] == ["data"]
    for place in ("here/data", "fast disk/data"):
        assert (surroundings / place / "kept.txt").read_text() == "kept"
    assert len(list((surroundings / NAME).rglob("*.png"))) == 30


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave the working directory out")
def test_no_process_looks_for_modules_in_the_working_directory(run, surroundings):
    assert not (surroundings / "ran").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave the working directory out")
def test_nor_does_a_job(surroundings):
    job = subprocess.run(
        f"{_PYTHON} -u -m submitit.core._submit /nowhere",
        shell=True,
        cwd=surroundings / "here",
        env={**os.environ, "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (surroundings / "ran").exists()
    assert "submitit" in job.stderr


def test_no_secret_is_told(run, surroundings):
    log = (surroundings / "run/log.txt").read_text()
    assert "OMP_NUM_THREADS:\t1" in log
    for said in (log, run.stdout, run.stderr):
        assert "mysecret" not in said
        assert "HOME_OF_MINE" not in said
