"""Fixtures of the tests of the data source ``images``."""

from pathlib import Path

import pytest
from collections_on_disk import WRITERS
from tiny import write_images


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Images in class folders; tests leave them as they are."""
    return write_images(tmp_path_factory.mktemp("source") / "images", 24)


@pytest.fixture(params=WRITERS)
def kind(request) -> str:
    """Each kind of collection."""
    return request.param
