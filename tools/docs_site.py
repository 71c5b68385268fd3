"""A hook of MkDocs: the site also has the pages of the repository's root, and links out of ``docs/`` lead to them."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: Where a file of the repository that lies outside ``docs/`` is on the site.
PLACES = {
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/my_parts.py": "examples/my_parts.py",
}
_SOURCES = {place: source for source, place in PLACES.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of ``PLACES``."""
    for source, place in PLACES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with its links as they are on the site; one that leads nowhere is left for MkDocs to warn of."""
    place = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(place, f"docs/{place}"))

    def on_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        target = PLACES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(place) or '.')}{link['anchor'] or ''})"

    return re.sub(r"\]\((?P<path>[^()#:\s]+)(?P<anchor>#[^()\s]*)?\)", on_the_site, markdown)
