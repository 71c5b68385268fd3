"""The Dockerfile, held against the repository: no daemon is needed, and none is asked."""

import json
import re
import runpy

import pytest
import setuptools
from repository import ROOT

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
LINES = [line for line in re.sub(r"\\\n\s*", "", TEXT).splitlines() if line and not line.startswith("#")]


def of(instruction: str) -> list[str]:
    return [line.removeprefix(f"{instruction} ") for line in LINES if line.startswith(f"{instruction} ")]


def copied(faiss: str) -> list[str]:
    """What is copied into the image, by its name in the repository."""
    return [name.replace("${FAISS}", faiss) for line in of("COPY") for name in line.split()[:-1]]


@pytest.mark.parametrize("faiss", ["cpu", "gpu"])
def test_what_is_copied_is_there_and_not_ignored(faiss):
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*"
    let_in = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for name in copied(faiss):
        assert (ROOT / name).exists()
        assert any(re.fullmatch(pattern.replace(".", r"\.").replace("*", ".*"), name) for pattern in let_in), name
    # Nothing is let in without a use.
    assert {*let_in} == {"requirements*.lock", *(name for name in copied(faiss) if not name.startswith("requirements"))}


def test_all_that_the_installation_reads_is_copied(monkeypatch):
    """The packages of setup.py, and the files that it and pyproject.toml open."""
    said = {}
    monkeypatch.setattr(setuptools, "setup", said.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    folders = {said["package_dir"].get(name, name.partition(".")[0]) for name in said["packages"]}
    assert folders <= {*copied("cpu")}
    assert {"setup.py", "pyproject.toml", "README.md", *said["license_files"]} <= {*copied("cpu")}
    [command] = [json.loads(line) for line in of("ENTRYPOINT")]
    assert command == [said["entry_points"]["console_scripts"][0].partition(" = ")[0]]


def test_it_installs_from_the_lock_what_installs_the_rest():
    install, package = of("RUN")
    pattern = re.search(r"grep -E '(.*?)'", install)[1]
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    found = re.findall(pattern.replace("^", "(?m:^)"), lock)
    assert sorted(found) == ["pip", "setuptools", "uv"]
    assert install.endswith("requirements.lock requirements-${FAISS}.lock")
    assert package == "pip install --no-cache-dir --no-deps --no-build-isolation ."
