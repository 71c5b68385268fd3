"""Says what a run, or a clustering, will take: memory, disk, passes over the data, network and time.

    vissl-clusterfit plan config=pretrain/simclr/simclr_8node_resnet +config/clusterfit=student <overrides of the run>
    vissl-clusterfit plan --num-samples 1e9 --dim 1024 --num-clusters 1e6 --processes 64 --machines 8
    vissl-clusterfit plan config=clusterfit/imagenet1k/rotnet_resnet50 --num-samples 1281167 --dim 2048
    vissl-clusterfit plan --features runs/student/clusterfit/features/train --num-clusters 16000

Times come from a few seconds of the very work on this machine, and hold for machines like it. With a config, settings
are those of the run (overrides as on its command line), N is counted in its data, D comes from one image through the
network of its teacher, without weights, and extraction and training are planned, too, from a few of its images through
both networks. Options of this command come before all of them; with both --num-samples and --dim no data are read, and
the clustering alone is planned.
Exit code 0; 2 for a mistake, said in one message.
"""

from __future__ import annotations

import argparse

from vissl_clusterfit.commands.parsing import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("overrides", nargs="*", metavar="config=NAME", help="of the run, and overrides of it")
    parser.add_argument("--features", metavar="FOLDER", help="of a feature store: it says N, D and dtype")
    parser.add_argument("--num-samples", type=count, metavar="N")
    parser.add_argument("--dim", type=count, metavar="D", help="of the features")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="of the features on disk")
    parser.add_argument("--num-clusters", type=count, metavar="K")
    parser.add_argument("--num-iter", type=count)
    parser.add_argument("--num-components", type=count, help="principal components that are kept; 0 for no projection")
    parser.add_argument("--data-limit", type=count, help="features that are clustered; -1 for all")
    parser.add_argument("--backend", choices=("torch", "faiss"))
    parser.add_argument("--device", choices=("cpu", "gpu"))
    parser.add_argument("--processes", type=count, metavar="P", help="of the whole run")
    parser.add_argument("--machines", type=count, help="on which they are; 1 unless the config says otherwise")
    parser.add_argument("--network", type=float, default=10.0, help="Gbit/s between processes, assumed (%(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="where the artefacts will be: its disk is looked at")
    parser.add_argument("--no-calibration", action="store_true", help="measure nothing: no times")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the plan."""
    from vissl_clusterfit.commands import planning

    return planning.run(options)
