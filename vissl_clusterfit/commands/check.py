"""Reads artefacts whole and says what is wrong with them.

    vissl-clusterfit check runs/student
    vissl-clusterfit check runs/*/clusterfit/labels/train

Every feature store, codebook and set of pseudo-labels in the folders, and below them, is held against its manifest, and
against the artefacts that it was made from. One line for each that is well, one for each thing that is wrong,
and one that says how to fix it.
Exit code 0 if all is well, 1 if anything is wrong, 2 if a folder holds no artefact.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of an artefact, or above it; a path or a URI")


def run(options: argparse.Namespace) -> int:
    """Checks the folders and returns the exit code."""
    from vissl_clusterfit.errors import ArtifactError
    from vissl_clusterfit.storage.paths import artifact_path
    from vissl_clusterfit.verification.verify import find_artifacts, how_to_mend, verify_artifacts

    folders = [artifact_path(folder, "FOLDER") for folder in options.folders]
    without = [str(folder) for folder in folders if not find_artifacts(folder)]
    if without:
        raise ArtifactError(f"there is no artefact in {', '.join(without)}.")
    num_wrong = 0
    for folder, problems in verify_artifacts(folders):
        num_wrong += bool(problems)
        for problem in problems:
            print(f"wrong  {problem}", flush=True)
        if remedy := how_to_mend(folder, problems):
            print(f"mend   {remedy}", flush=True)
        if not problems:
            print(f"ok     {folder}", flush=True)
    return 1 if num_wrong else 0
