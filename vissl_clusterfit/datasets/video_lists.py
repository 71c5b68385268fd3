"""The lists that publishers of video data sets ship, as lists of the files that are there, with their classes.

Videos vanish from where they were collected, so a part of a list is always missing. It is named, and left out.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.storage.atomic import write_file

# Of each split, what its list names, with the numbers of its classes.
Named = dict[str, list[tuple[str, tuple[int, ...]]]]

_SHOWN = 3


@dataclass(frozen=True)
class PublishedSplit:
    """One split.

    Attributes:
        entries: each file, or folder of frames, that is there, with the numbers of its classes.
        missing: what the list names and no file was found for.
    """

    entries: list[tuple[Path, tuple[int, ...]]]
    missing: list[str]


@dataclass(frozen=True)
class PublishedLists:
    """A data set: the names of its classes, whose numbers are their places, and its splits by name."""

    classes: list[str]
    splits: dict[str, PublishedSplit]


def kinetics(train: Path, test: Path, videos: Path) -> PublishedLists:
    """Kinetics: CSV files with ``label``, ``youtube_id``, ``time_start`` and ``time_end`` (Kay et al. 2017).

    A video is ``<youtube_id>_<start>_<end>`` with six digits each and any extension, anywhere below ``videos``: in
    class folders, as the crawler puts them, or together, as in the archives. Classes are numbered in the order of their
    names.
    """
    columns = ("label", "youtube_id", "time_start", "time_end")
    rows = {"train": list(_csv_rows(train, columns)), "test": list(_csv_rows(test, columns))}
    classes = sorted({row["label"] for split in rows.values() for row in split})
    numbers = {name: number for number, name in enumerate(classes)}

    def name_of(row: dict[str, str]) -> str:
        start, end = (round(float(row[column])) for column in ("time_start", "time_end"))
        return f"{row['youtube_id']}_{start:06d}_{end:06d}"

    named: Named = {split: [(name_of(row), (numbers[row["label"]],)) for row in rows[split]] for split in rows}
    return _found(named, classes, _files_by_stem(videos).get, videos)


def sports1m(train: Path, test: Path, labels: Path, videos: Path) -> PublishedLists:
    """Sports-1M: ``<address with v=id> <class>[,<class>…]`` in the partition files, a class per line in ``labels``.

    A video is ``<id>`` with any extension, anywhere below ``videos``. About one in twenty has several classes.
    """
    classes = _lines(labels)
    files = {"train": train, "test": test}
    named: Named = {
        split: [_sports1m_entry(line, len(classes), file) for line in _lines(file)] for split, file in files.items()
    }
    return _found(named, classes, _files_by_stem(videos).get, videos)


def _sports1m_entry(line: str, num_classes: int, file: Path) -> tuple[str, tuple[int, ...]]:
    address, _, numbers = line.partition(" ")
    [name] = parse_qs(urlsplit(address).query).get("v", [""])
    tokens = numbers.strip().split(",")
    if not name or not all(token.isdecimal() and int(token) < num_classes for token in tokens):
        allowed = f"an address with v=<id>, and numbers of the {num_classes} classes"
        raise DataError(problem(f"A line of {file}", found=repr(line), allowed=allowed))
    return name, tuple(map(int, tokens))


def something_something_v1(train: Path, test: Path, labels: Path, frames: Path) -> PublishedLists:
    """Something-Something V1: ``<id>;<class>`` in the split files, a class per line in ``labels`` (Goyal et al. 2017).

    A video is the folder ``frames/<id>`` of JPEG files, 12 frames per second. Classes have the order of ``labels``.
    """
    classes = _lines(labels)
    numbers = {name: number for number, name in enumerate(classes)}
    named: Named = {"train": [], "test": []}
    for split, file in (("train", train), ("test", test)):
        for line in _lines(file):
            name, _, label = line.partition(";")
            if label not in numbers:
                allowed = f"<id>;<class>, the class being a line of {labels}"
                raise DataError(problem(f"A line of {file}", found=repr(line), allowed=allowed))
            named[split].append((name, (numbers[label],)))
    _require(frames.is_dir(), f"{frames} is no folder")
    return _found(named, classes, lambda name: _folder_of_frames(frames / name), frames)


def hashtags(train: Path, vocabulary: Path, videos: Path) -> PublishedLists:
    """Videos with hashtags: ``<path below videos><TAB><tag> <tag> …``, with or without ``#``, in any case.

    ``vocabulary`` has a class per line: its hashtag, then others that mean the same. Other hashtags count for nothing;
    a video that is left without any is left out, as in the paper's pre-training on verbs, and named as missing.
    """
    lines = [line.split() for line in _lines(vocabulary)]
    numbers = {tag.lstrip("#").lower(): number for number, tags in enumerate(lines) for tag in tags}
    entries, missing = [], []
    for line in _lines(train):
        name, _, tags = line.partition("\t")
        known = {numbers[tag] for tag in tags.lower().replace("#", " ").split() if tag in numbers}
        if known and os.path.exists(videos / name):
            entries.append((videos / name, tuple(sorted(known))))
        else:
            missing.append(name if known else f"{name} (no hashtag of the vocabulary)")
    _require(bool(entries), f"none of the {len(missing)} videos of {train} is below {videos} with a known hashtag")
    return PublishedLists([tags[0].lstrip("#") for tags in lines], {"train": PublishedSplit(entries, missing)})


def write_lists(lists: PublishedLists, folder: Path) -> None:
    """Writes ``<split>.txt`` (path, tab, numbers with commas), ``<split>-missing.txt`` and ``classes.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, found in lists.splits.items():
        lines = [f"{path.absolute()}\t{','.join(map(str, numbers))}" for path, numbers in found.entries]
        _write_lines(folder / f"{split}.txt", lines)
        _write_lines(folder / f"{split}-missing.txt", found.missing)
    _write_lines(folder / "classes.txt", lists.classes)


def _found(
    named: Named,
    classes: list[str],
    find: Callable[[str], Path | None],
    videos: Path,
) -> PublishedLists:
    splits = {}
    for split, entries in named.items():
        places = [(find(name), name, numbers) for name, numbers in entries]
        found = [(place, numbers) for place, _, numbers in places if place is not None]
        missing = [name for place, name, _ in places if place is None]
        shown = ", ".join(missing[:_SHOWN])
        _require(bool(found), f"none of the {len(entries)} videos of the {split} list is below {videos}: {shown} …")
        splits[split] = PublishedSplit(found, missing)
    present = {number for _, numbers in splits["train"].entries for number in numbers}
    empty = [classes[number] for _, numbers in splits["test"].entries for number in numbers if number not in present]
    _require(
        not empty, f"these classes of the test list have no training video: {', '.join(sorted(set(empty))[:_SHOWN])}"
    )
    return PublishedLists(classes, splits)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DataError(f"Preparing videos: {otherwise}. Check the paths.")


def _files_by_stem(folder: Path) -> dict[str, Path]:
    _require(folder.is_dir(), f"{folder} is no folder")
    return {Path(name).stem: Path(place, name) for place, _, names in os.walk(folder) for name in sorted(names)}


def _folder_of_frames(folder: Path) -> Path | None:
    return (
        folder if folder.is_dir() and any(entry.name.lower().endswith(".jpg") for entry in os.scandir(folder)) else None
    )


def _lines(file: Path) -> list[str]:
    _require(file.is_file(), f"{file} is no file")
    return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]


def _csv_rows(file: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    _require(file.is_file(), f"{file} is no file")
    with open(file, encoding="utf-8", newline="") as opened:
        rows = csv.DictReader(opened)
        if not set(columns) <= set(rows.fieldnames or ()):
            found = ", ".join(rows.fieldnames or ()) or "nothing"
            raise DataError(problem(f"The first line of {file}", found=found, allowed=", ".join(columns)))
        yield from rows


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    write_file(file, lambda opened: opened.write(content))
