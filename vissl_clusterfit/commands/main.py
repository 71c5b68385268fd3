"""``vissl-clusterfit <sub-command> …``: which one is meant, and what its end says.

Exit codes: 0 done; 1 what was looked for is wrong, or a failure with its traceback; 2 a mistake that the user can fix,
said in one message; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module

from vissl_clusterfit.commands.parsing import DONE, INTERRUPTED, USER_ERROR, Parser
from vissl_clusterfit.errors import mendable, problem

PROG = "vissl-clusterfit"
RUN = "run"

#: Of each sub-command its module, with ``add_arguments(parser)`` and ``run(options)``, and what it does.
COMMANDS = {
    RUN: ("run_config", "a config of VISSL or of this package: all of ClusterFit, one stage, a benchmark, a study"),
    "list": ("listing", "which configs, trunks, data sources, models, and layers of a network there are"),
    "plan": ("plan", "what a run or a clustering will take: memory, disk, time"),
    "check": ("check", "artefacts read whole, against their manifests and each other"),
    "compare": ("compare", "the quality of labels, alone, against others, or against true classes"),
    "table": ("table", "one table of the results of many runs, with intervals and published scores"),
    "prepare": ("prepare", "a target data set from its publisher's files, pictures or videos"),
    "import": ("importing", "features or labels of yours, from files"),
    "embed": ("embed", "images into features, by a network of torchvision, timm, transformers or your own"),
    "cluster": ("cluster", "features into a codebook"),
    "label": ("label", "features and a codebook into labels"),
    "sample": ("sample", "a list of samples that is balanced over clusters"),
    "report": ("report", "what the folder of a run holds, and how it came out"),
    "export": ("export", "labels, or a trained network, for other programs"),
    "quickstart": ("quickstart.command", "ClusterFit on two cores, from drawn digits to a table of figures"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command and returns its exit code; without one, ``config=…`` is a run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text
    name = words[0] if words else ""
    if name in ("", "-h", "--help", "help"):
        with suppress(BrokenPipeError):  # of a pager that was left, as below
            print(_overview(), file=sys.stdout if name else sys.stderr, flush=True)
            return DONE if name else USER_ERROR
        return _left()
    if name == "--version":
        from vissl_clusterfit import __version__

        print(f"{PROG} {__version__}")
        return DONE
    if name not in COMMANDS and ("=" in name or name.startswith(("~", "+")) or name in ("-v", "--verbose")):
        words.insert(0, name := RUN)
    if name not in COMMANDS:
        from vissl_clusterfit.config.nearest import nearest, proposal

        allowed = f"{', '.join(COMMANDS)}, or config=NAME for a run"
        said = problem(PROG, found=repr(name), allowed=allowed, remedy=proposal(nearest(name, COMMANDS)))
        print(f"error: {said}", file=sys.stderr)
        return USER_ERROR
    return _run(name, words[1:])


def _run(name: str, words: Sequence[str]) -> int:
    command = import_module(f"vissl_clusterfit.commands.{COMMANDS[name][0]}")
    if name == RUN:  # its arguments are Hydra's, and so are its messages
        return command.run(words)
    parser = Parser(prog=f"{PROG} {name}", description=command.__doc__)
    command.add_arguments(parser)
    try:
        code = command.run(parser.parse_args(words))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        with suppress(OSError):
            sys.stdout.flush()  # what was said before comes before
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # of a pager that was left: there is nobody to tell
        return _left()
    except Exception as error:
        if mistake := mendable(error):
            print(f"error: {_with_options(str(mistake), parser)}", file=sys.stderr)
            return USER_ERROR
        raise


def _left() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _with_options(text: str, parser: Parser) -> str:
    """A message with the options of the command where it names arguments of the function behind it."""
    options = set(_options(parser))

    def option(found: re.Match[str]) -> str:
        name = f"--{found[1].replace('_', '-')}"
        return f"{name}:" if name in options else found[0]

    text = re.sub(r"^([a-z_]+):", option, text, flags=re.MULTILINE)
    return re.sub(r"\bset trust=True", "give --trust", text) if "--trust" in options else text


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for of_one_kind in action.choices.values():
                yield from _options(of_one_kind)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROG} COMMAND [...]        {PROG} COMMAND --help        {PROG} config=NAME [KEY=VALUE ...]",
            "",
            "ClusterFit: cluster a network's features, retrain on the clusters.",
            "",
            *lines,
            "",
            "From images to labels, without VISSL:",
            "",
            f"  {PROG} embed pictures/ timm:resnet18 run/features --weights resnet18.safetensors",
            f"  {PROG} cluster run/features run/codebook --num-clusters 1000",
            f"  {PROG} label run/features run/codebook run/labels",
            f"  {PROG} export labels run/labels labels.csv",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
