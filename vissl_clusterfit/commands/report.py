"""What the folder of a run holds, how it came out, and what may be wrong with it: in words, and as a page to look at.

    vissl-clusterfit report runs/student --open
    vissl-clusterfit report run --images pictures/ --clusters 17,42
    vissl-clusterfit report run other_seed --true classes.npy --folder run/page

The page is one HTML file that needs no network: samples of clusters, near-copies, folders, sizes, and warnings with the
setting to change. With OTHER, a run on the same samples with another seed or K, it says which clusters are found again.
A run that has not ended can be reported on. Exit code 0, or 2 if there is nothing to report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vissl_clusterfit.errors import ConfigError, problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("run", metavar="RUN", help="its folder, or that of an artefact; a path or a URI")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="a run, or labels, of the same samples")
    parser.add_argument(
        "--images", default="", metavar="PLACE", help="of the images, if not where the training had them"
    )
    parser.add_argument("--clusters", default="", metavar="N,N,…", help="that are shown in any case, by their numbers")
    parser.add_argument("--true", metavar="FILE.npy", help="true classes of the labelled samples, -1 for none")
    parser.add_argument(
        "--map", choices=("pca", "umap"), default="", help="of the centroids; UMAP where it is installed"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--html", type=Path, metavar="FILE", help="the page (RUN/report.html)")
    place.add_argument("--folder", type=Path, help="write the page as index.html in it, with full pictures")
    parser.add_argument("--open", action="store_true", help="the page in the browser")


def run(options: argparse.Namespace) -> int:
    """Prints what can be said, and writes the page."""
    from vissl_clusterfit.commands.reporting import report
    from vissl_clusterfit.storage.paths import artifact_path

    text, page = report(
        artifact_path(options.run, "RUN"),
        other=None if options.other is None else artifact_path(options.other, "OTHER"),
        true=None if options.true is None else artifact_path(options.true, "--true"),
        images=options.images,
        named=_numbers(options.clusters),
        map_method=options.map,
        html=options.html,
        folder_of_page=options.folder,
    )
    print(text)
    if options.open:
        import webbrowser

        from vissl_clusterfit.storage.remote import as_remote

        if as_remote(page):
            allowed = "a page on this machine: --html FILE"
            raise ConfigError(problem("--open", found=page, allowed=allowed))
        webbrowser.open(page.resolve().as_uri())
    return 0


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and part.isascii() and len(part) < 16 for part in parts):
        raise ConfigError(problem("--clusters", found=repr(text), allowed="numbers of clusters, such as 17,42"))
    return [int(part) for part in parts]
