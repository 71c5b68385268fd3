"""A figure of matplotlib as SVG in a page: its colours are the page's, its names its own, and it has no style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_FONT_SIZE = re.compile(r"(?P<size>[\d.]+)px")


def inline_svg(
    figure: Figure, prefix: str, alt: str, change: Callable[[ElementTree.Element], None] | None = None
) -> str:
    """A figure as the text of an ``<svg>`` element.

    A page that allows no inline style sheets shows it: styles become attributes. Black becomes the colour of the text
    around it, so that a figure can be read in dark mode.

    Args:
        figure: drawn with nothing behind it.
        prefix: of all identifiers in it, another one for each figure of a page.
        alt: what it shows, for those who do not see it.
        change: gets the element last, to add to it.
    """
    import matplotlib as mpl

    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())  # which matplotlib wrote just now
    for name in ("metadata", "title"):
        for element in root.findall(f"{_SVG}{name}"):
            root.remove(element)
    for parent in list(root.iter()):
        for style in parent.findall(f"{_SVG}style"):
            parent.remove(style)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _without_style(element, prefix)
        if element.tag == "text" and "fill" not in element.attrib:
            element.set("fill", "currentColor")
    viewed = root.attrib.pop("viewBox")
    for name in list(root.attrib):
        del root.attrib[name]
    root.attrib.update({"viewBox": viewed, "role": "img", "aria-label": alt, "class": "plot"})
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    if change is not None:
        change(root)
    return ElementTree.tostring(root, encoding="unicode")


def _without_style(element: ElementTree.Element, prefix: str) -> None:
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "style":
            for part in value.split(";"):
                key, _, said = part.partition(":")
                if said:
                    _add_style(element, key.strip(), said.strip(), prefix)
        elif name == f"{_XLINK}href":
            element.set("href", value if not value.startswith("#") else f"#{prefix}-{value[1:]}")
        elif name == "id":
            element.set("id", f"{prefix}-{value}")
        elif not name.startswith("{"):
            element.set(name, _prefixed(value, prefix))


def _add_style(element: ElementTree.Element, key: str, value: str, prefix: str) -> None:
    if key == "font":  # short for several attributes, which SVG does not have
        if size := _FONT_SIZE.search(value):
            element.set("font-size", size["size"])
    elif key != "font-family":
        element.set(key, "currentColor" if value in ("#000000", "black") else _prefixed(value, prefix))


def _prefixed(value: str, prefix: str) -> str:
    return value.replace("url(#", f"url(#{prefix}-")
