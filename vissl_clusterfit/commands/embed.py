"""Extracts features of images by a network of torchvision, timm, transformers, or of your own.

    vissl-clusterfit embed pictures/ timm:vit_small_patch14_dinov2 run/features --weights dinov2.safetensors
    vissl-clusterfit embed pictures/ torchvision:resnet18 run/features --weights resnet18.pth --size 64
    vissl-clusterfit embed pictures/ timm:vit_tiny_patch16_224 run/features --size 64 --argument img_size=64
    vissl-clusterfit embed images.csv transformers:models/dinov2 run/features --weights library
    vissl-clusterfit embed 'shards/train-*.tar' python:my_networks:encoder run/features --device cuda

IMAGES is a folder, a list of files, an array, tar files, a data set of Hugging Face on disk or an LMDB. Transforms are
those that the library has for these weights, and are printed. Stopped and started again, it resumes; started several
times at once on one folder, the processes share the work. Exit code 0, or 2 if something does not fit.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from vissl_clusterfit.commands.parsing import count, count_or_auto, progress_shown, say_end, share
from vissl_clusterfit.errors import ConfigError, problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("images", metavar="IMAGES", help="where they lie")
    parser.add_argument("model", metavar="MODEL", help="LIBRARY:NAME, of torchvision, timm, transformers, hub, python")
    parser.add_argument("folder", metavar="FOLDER", help="of the feature store")
    parser.add_argument(
        "--weights", default="", help='a file; "library" for what the library brings; a random start if not given'
    )
    parser.add_argument("--layer", default="", help="a submodule; the library's own features if not given")
    parser.add_argument("--pooling", default="", help="avg, max, flatten, class_token or patch_mean")
    parser.add_argument("--size", type=count, metavar="PIXELS", help="to which transforms resize and crop instead")
    parser.add_argument(
        "--argument", action="append", default=[], metavar="NAME=VALUE", help="of the network's constructor; repeatable"
    )
    parser.add_argument("--key", default="", help="where the state dict is in the file of the weights")
    parser.add_argument("--prefix", default="", help="with which the names of the network begin in it")
    parser.add_argument("--trust", action="store_true", help="the file of the weights may run code")
    parser.add_argument("--column", default="", help="of a list with several, that of the paths or images")
    parser.add_argument("--batch-size", type=count_or_auto, default=64, metavar="B", help="or auto (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the features on disk")
    parser.add_argument(
        "--max-unreadable", type=share, default=0.05, metavar="SHARE", help="of the images (%(default)s)"
    )
    parser.add_argument("--no-names", action="store_true", help="keep no names of the images")
    parser.add_argument(
        "--num-workers",
        type=count_or_auto,
        default="auto",
        metavar="W",
        help="processes that read images (auto: as many as keep ahead of the network)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the network (auto: what is fastest here)",
    )
    parser.add_argument("--compile", action="store_true", help="the network, with torch.compile")


def run(options: argparse.Namespace) -> int:
    """Extracts the features."""
    arguments = dict(map(_argument, options.argument))
    from vissl_clusterfit.api.embedding import embed
    from vissl_clusterfit.commands.places import clustering_of

    with progress_shown():
        store = embed(
            options.images,
            options.model,
            options.folder,
            weights=options.weights,
            layer=options.layer,
            pooling=options.pooling,
            size=options.size,
            arguments=arguments,
            key=options.key,
            prefix=options.prefix,
            trust=options.trust,
            column=options.column,
            batch_size=options.batch_size,
            dtype=options.dtype,
            max_unreadable=options.max_unreadable,
            keep_names=not options.no_names,
            num_workers=options.num_workers,
            device=options.device,
            precision=options.precision,
            compile=options.compile,
        )
    without = f", {len(store.unreadable)} of images that could not be read" if len(store.unreadable) else ""
    done = f"{store.folder}: {store.num_samples} features of dimension {store.dim}{without}"
    say_end(done, then=clustering_of(store))
    return 0


def _argument(text: str) -> tuple[str, Any]:
    """A name and its value: JSON, or a text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ConfigError(problem("--argument", found=repr(text), allowed="NAME=VALUE, such as img_size=64"))
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
