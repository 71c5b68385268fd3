"""Each repair: VISSL fails without it and works with it, in processes of their own, where nothing is loaded.

Repairs that do not stand in each other's way are left out together (``BROKEN_BY``), since each process spends seconds
on importing VISSL.
"""

import collections
import functools
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace

import pytest
import vissl_uses
from vissl_uses import CHECKS, USES

from vissl_clusterfit.compat import repairs

# Left out together; what fails then.
BROKEN_BY = (
    {
        "pkg_resources_stand_in": "ModuleNotFoundError: No module named 'pkg_resources'",
        "kinetics400_alias": "ImportError: cannot import name 'Kinetics400'",
        "numpy_aliases": "AttributeError: module 'numpy' has no attribute '(float|int|in1d)'",
    },
    {
        "collections_mutable_mapping": "AttributeError: .*'collections' has no attribute 'MutableMapping'",
        "trusted_checkpoints": "UnpicklingError: Weights only load failed.*Namespace",
    },
    {
        "checkpoint_types": "UnpicklingError: Weights only load failed.*vissl.config.attr_dict.AttrDict",
    },
    {"images_read_once": "AssertionError"},
    {"cluster_assignment_config": "AttributeError: .*OrderedDict' object has no attribute 'DATA'"},
)
ERRORS = {repair: (frozenset(group), error) for group in BROKEN_BY for repair, error in group.items()}


@functools.cache
def outcomes_of(
    *uses: str, without: frozenset[str] = frozenset(), trust: str = "", late: bool = False
) -> SimpleNamespace:
    with TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        arguments = list(uses), sorted(without), late, str(result)
        run_python(f"import runpy; runpy.run_path({vissl_uses.__file__!r})['child']{arguments}", trust=trust)
        return SimpleNamespace(**json.loads(result.read_text()))


def run_python(code: str, trust: str = "") -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", repairs.TRUST_VARIABLE: trust}
    environment.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    environment["PYTHONPATH"] = str(Path(repairs.__file__).parents[2])
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_every_repair_is_covered():
    assert set(USES) == set(ERRORS) == set(repairs.REPAIRS)


@pytest.mark.parametrize("repair", USES)
def test_fails_without_the_repair(repair):
    left_out, error = ERRORS[repair]
    outcome = outcomes_of(*sorted(left_out), without=left_out, trust="1" if "trusted_checkpoints" in left_out else "")
    assert re.match(error, outcome.outcomes[repair], re.DOTALL), outcome.outcomes[repair]
    assert repair not in outcome.made


@pytest.mark.parametrize("repair", [repair for repair in USES if repair != "trusted_checkpoints"])
def test_works_with_the_repair(repair):
    outcome = with_all_repairs()
    assert outcome.outcomes[repair] == "works", outcome.tracebacks[repair]
    assert repair in outcome.made


@pytest.mark.parametrize("check", CHECKS)
def test_with_all_repairs(check):
    outcome = with_all_repairs()
    assert outcome.outcomes[check] == "works", outcome.tracebacks[check]


def with_all_repairs() -> SimpleNamespace:
    return outcomes_of(*(name for name in USES if name != "trusted_checkpoints"), *CHECKS)


def test_repairs_what_is_already_imported():
    uses = [name for name in USES if name != "trusted_checkpoints"]
    outcome = outcomes_of(*uses, late=True)
    assert outcome.outcomes == dict.fromkeys(uses, "works"), outcome.tracebacks
    assert set(outcome.made) == set(uses)


def test_the_user_can_trust_checkpoints():
    outcome = outcomes_of("trusted_checkpoints", trust="1")
    assert outcome.outcomes == {"trusted_checkpoints": "works"}
    assert "trusted_checkpoints" in outcome.made


@pytest.mark.parametrize("value", ["", "0", "yes"])
def test_checkpoints_are_not_trusted_unless_the_variable_is_1(value, monkeypatch, caplog):
    monkeypatch.setenv(repairs.TRUST_VARIABLE, value)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    assert repairs.trusted_checkpoints() is False
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
    assert ("found 'yes'; allowed: 0 and 1" in caplog.text) == (value == "yes")


def test_applying_imports_nothing_heavy():
    code = "import sys; before = set(sys.modules); from vissl_clusterfit import compat; compat.apply(); "
    new = run_python(code + "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))").split()
    assert "vissl_clusterfit" in new
    assert set(new) <= {"vissl_clusterfit"} | sys.stdlib_module_names


def test_does_nothing_where_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(collections, "MutableMapping", dict, raising=False)
    assert repairs.collections_mutable_mapping() is False
    assert collections.MutableMapping is dict

    names = dict.fromkeys(("float", "int", "bool", "in1d", "Kinetics400"), "its own")
    module = SimpleNamespace(**names)
    assert repairs.numpy_aliases(module) is False
    assert repairs.kinetics400_alias(module) is False
    assert vars(module) == names


@pytest.mark.parametrize(
    ("source", "needed"), [("there = True", False), ("raise AttributeError('pkgutil.ImpImporter')", True)]
)
def test_a_pkg_resources_that_can_be_imported_is_left_alone(source, needed, tmp_path, monkeypatch):
    (tmp_path / "pkg_resources.py").write_text(source)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    try:
        with contextmanager(repairs.pkg_resources_stand_in)(ModuleType("vissl.utils.misc")) as stands_in:
            assert stands_in is needed
            assert hasattr(sys.modules["pkg_resources"], "there") is not needed
        assert ("pkg_resources" in sys.modules) is not needed
    finally:
        sys.modules.pop("pkg_resources", None)


def test_a_resource_of_no_package_is_an_error():
    stand_in = repairs._small_pkg_resources()
    with pytest.raises(ModuleNotFoundError, match="No package named 'no_such_package'"):
        stand_in.resource_filename("no_such_package", "a/file")
