"""Values as Hydra reads them on a command line."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vissl_clusterfit.config.override_text import as_override

TEXTS = ["plain", "a b", "it's", "back\\slash", "\\'", "end\\", "[1]", "a=b,c"]


@pytest.mark.parametrize(
    "value", [*TEXTS, None, True, 3, 1e-5, TEXTS, {"key": TEXTS, "other": [{"a": "b c"}]}], ids=repr
)
def test_any_value_comes_through_hydra_as_it_is(value):
    assert OverridesParser.create().parse_overrides([as_override("key", value)])[0].value() == value
