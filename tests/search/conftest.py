"""Fixtures of the tests of search."""

import pytest
from exact_labels import TYPES


@pytest.fixture(params=TYPES, ids=["bfloat16", "float32"])
def product_type(request):
    return request.param
