"""What ``import vissl_clusterfit`` gives: names on demand, each with an example in its docstring that runs."""

import doctest
import inspect
import os
import subprocess
import sys

import pytest

import vissl_clusterfit

HEAVY = ("numpy", "torch", "sklearn", "vissl", "hydra", "pyarrow", "safetensors")


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys, vissl_clusterfit; dir(vissl_clusterfit); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_shown():
    assert set(vissl_clusterfit.__all__) == set(vissl_clusterfit._MODULES)
    assert set(vissl_clusterfit.__all__) <= set(dir(vissl_clusterfit))
    for name in vissl_clusterfit.__all__:
        assert getattr(vissl_clusterfit, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Kmeans'"):
        _ = vissl_clusterfit.Kmeans


@pytest.mark.parametrize("name", vissl_clusterfit.__all__)
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = getattr(vissl_clusterfit, name)
    (test,) = (doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", {}, name, None, 0),)
    assert test.examples, f"{name} has no example"
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert results.failed == 0
