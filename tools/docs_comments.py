"""An extension of griffe: comments ``#:`` above an attribute are its docstring, and roles of Sphinx are plain code."""

import re
from typing import Any

from griffe import Attribute, Docstring, Extension, Object


class Comments(Extension):
    """Reads what Python's own parser drops from the source."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Gives an attribute the lines that begin with ``#:`` right above it."""
        if attr.docstring or attr.lineno is None:
            return
        said: list[str] = []
        for line in reversed(attr.lines_collection[attr.filepath][: attr.lineno - 1]):
            if not line.lstrip().startswith("#:"):
                break
            said.insert(0, line.lstrip().removeprefix("#:").strip())
        if said:
            attr.docstring = Docstring(" ".join(said), lineno=attr.lineno - len(said), parent=attr)

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Takes ``:func:`` and the like from in front of names."""
        if obj.docstring:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
