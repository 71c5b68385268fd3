"""Fixtures of the tests on file systems other than this machine's."""

import pytest
from object_store import handler_of
from remote_run import make

from vissl_clusterfit.storage.paths import artifact_path

URIS = ["store://bucket/some/run", "share://host/some/run", "s3://bucket/some/run"]


@pytest.fixture(params=URIS, ids=lambda uri: uri.partition(":")[0])
def run(request, tmp_path):
    """The folder of a run on each kind of file system."""
    handler = handler_of(request.param)
    handler.root = tmp_path
    handler.forget()
    return artifact_path(request.param)


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """The same run on this machine."""
    folder = tmp_path_factory.mktemp("local")
    make(folder)
    return folder
