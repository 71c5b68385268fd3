"""Paths of this machine, and URIs that iopath has a handler for."""

import os
import pickle
from pathlib import Path

import pytest

from vissl_clusterfit import dependencies
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.storage import paths
from vissl_clusterfit.storage.paths import artifact_path

# Mistakes of the user


def test_a_scheme_without_a_handler_is_named_with_the_setting():
    with pytest.raises(ConfigError) as caught:
        ClusterFitConfig.from_block(
            {"OUTPUT_DIR": "gs://bucket/run", "FEATURES": {"PATH": "gs://bucket/run/features"}, "NUM_CLUSTERS": 4}
        )
    message = str(caught.value)
    assert message.startswith(
        "config.CLUSTERFIT.OUTPUT_DIR: found 'gs://bucket/run', and iopath has no handler for gs://; allowed: a path "
        "of this machine, or a URI that begins with "
    )
    assert "store://" in message
    assert f"name the module in {dependencies.IMPORT_VARIABLE}" in message
    assert "\n" not in message  # FEATURES.PATH follows from OUTPUT_DIR


@pytest.mark.parametrize(
    ("block", "setting"),
    [
        ({"FEATURES": {"PATH": "gs://b/f"}}, "FEATURES.PATH"),
        ({"ASSIGN": {"CODEBOOK": "gs://b/c"}}, "ASSIGN.CODEBOOK"),
        ({"TEACHER": {"WEIGHTS": "gs://b/w.torch"}}, "TEACHER.WEIGHTS"),
    ],
)
def test_every_setting_is_checked(block, setting):
    with pytest.raises(ConfigError, match=rf"^config\.CLUSTERFIT\.{setting}: found 'gs://b/"):
        ClusterFitConfig.from_block(block)


def test_a_module_of_handlers_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv(dependencies.IMPORT_VARIABLE, "no_such_module")
    paths.register_handlers.cache_clear()
    dependencies.import_user_modules.cache_clear()
    with pytest.raises(
        ConfigError, match=f"{dependencies.IMPORT_VARIABLE}: found 'no_such_module', which cannot be imported"
    ):
        artifact_path("store://bucket/run")


# The paths themselves


@pytest.mark.parametrize("root", ["store://bucket", "store:///some", "store://"])
def test_a_path_has_the_parts_of_its_uri(root):
    base = artifact_path(root)
    folder = base / "run" / "labels"
    between = "" if root.endswith("/") else "/"
    assert str(folder) == f"{root}{between}run/labels" == f"{folder}"
    assert folder.name == "labels"
    assert str(folder.parent) == f"{root}{between}run"
    assert str(folder.with_name("labels.lease")) == f"{root}{between}run/labels.lease"
    assert folder.parent.parent == base
    assert base.parent.parent == base.parent
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert len({folder, artifact_path(str(folder))}) == 1
    assert sorted([folder, base]) == [base, folder]


def test_builtin_functions_refuse_a_path_of_another_file_system():
    with pytest.raises(TypeError):
        open(artifact_path("store://bucket/file"))  # noqa: SIM115  (it is never open)
    with pytest.raises(TypeError):
        os.listdir(artifact_path("store://bucket/folder"))


@pytest.mark.parametrize("text", ["run", "/data/run", "./a:b", "C:/run", ""])
def test_a_path_of_this_machine_stays_one(text):
    assert artifact_path(text) == Path(text)
