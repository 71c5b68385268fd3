"""Labels, or a trained network, for other programs.

    vissl-clusterfit export labels run/labels labels.csv
    vissl-clusterfit export labels runs/student labels.parquet
    vissl-clusterfit export labels run/labels labels.npy --images /path/to/images
    vissl-clusterfit export labels run/labels classes/ --images /path/to/images
    vissl-clusterfit export model runs/student exported/
    vissl-clusterfit export model runs/student exported/ --form timm --head --onnx

labels: the end of the path says how. .csv, .jsonl and .parquet have the name, label, distance and margin of each
sample, and its nearest clusters where there are several; .npy is what VISSL's disk_filelist reads; a folder gets one
folder for each cluster, of links to the images.

model: the trunk of a finished training, as .safetensors and .pth that plain torchvision, timm, transformers or VISSL
load, without this package; card.json says how. --form auto takes the library that has this architecture.

What is there already is refused, never written over.
Exit code 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vissl_clusterfit.commands.parsing import progress_shown, say_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="labels | model")
    labels = kinds.add_parser("labels", description="Labels as a file, or as class folders of links.")
    labels.add_argument("labels", metavar="LABELS", help="a folder of labels, or of the run that made them")
    labels.add_argument("path", metavar="PATH", help="of the file or folder")
    labels.add_argument("--images", metavar="DIR", help="the folder in which the names are paths")
    labels.add_argument(
        "--names", metavar="FILE", help="of the samples, in order, where the labels have none with them"
    )
    model = kinds.add_parser("model", description="A trained network as files that other libraries load.")
    model.add_argument("run", metavar="RUN", help="the folder of a finished training, or one of its checkpoints")
    model.add_argument("folder", metavar="FOLDER", help="that is new or empty")
    model.add_argument(
        "--form", choices=("auto", "torchvision", "timm", "transformers", "vissl"), default="auto", help="(%(default)s)"
    )
    model.add_argument("--head", action="store_true", help="with the classifier of the clusters")
    model.add_argument("--onnx", action="store_true", help="model.onnx, too, checked with onnxruntime")


def run(options: argparse.Namespace) -> int:
    """Exports what the options name."""
    with progress_shown():
        made, then = _export_model(options) if options.kind == "model" else _export_labels(options)
        say_end(str(made), then=then)
    return 0


def _export_model(options: argparse.Namespace) -> tuple[Path, list[object]]:
    from vissl_clusterfit.dependencies import require

    require("torch", "vissl")
    from vissl_clusterfit.plugin.export.export import export_model

    with redirect_stdout(sys.stderr):  # VISSL says what it builds
        made = export_model(options.run, options.folder, form=options.form, head=options.head, onnx=options.onnx)
    return made, ["list", "configs", "clusterfit/transfer"]


def _export_labels(options: argparse.Namespace) -> tuple[Path, list[object]]:
    from vissl_clusterfit.commands.places import labels_in, report_on
    from vissl_clusterfit.features.imports import read_name_list
    from vissl_clusterfit.labels.export import export_labels
    from vissl_clusterfit.storage.paths import artifact_path

    names = None if options.names is None else read_name_list(Path(options.names))
    labels = labels_in(artifact_path(options.labels, "LABELS"))
    return export_labels(labels, options.path, images=options.images, names=names), report_on(labels)
