"""What must hold inside a feature store, a codebook, and pseudo-labels. ``verify.py`` calls it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from vissl_clusterfit.clustering.codebook import COUNTS_FILE, FINE_COUNTS_FILE, array_shapes, is_split
from vissl_clusterfit.features.store import UNREADABLE_FILE, Shard, num_shards, split_into_shards
from vissl_clusterfit.labels.assign import UNLABELLED
from vissl_clusterfit.labels.balanced import capacity
from vissl_clusterfit.labels.files import DISTANCES_FILE, LABELS_FILE, MARGINS_FILE, SIZES_FILE
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.verification.files import Contents, blocks
from vissl_clusterfit.verification.nearest import check_nearest

# More unreadable samples than this are not listed in a manifest.
_MAX_LISTED = 1000


def check_store(contents: Contents) -> None:
    """Checks a feature store; of one that is incomplete, the shards that are done."""
    manifest = contents.manifest
    complete = bool(manifest.get("complete"))
    contents.check_samples(manifest["inputs"]["dataset"], hashed=complete)
    number = num_shards(manifest)
    num_named = sum(name.startswith("rows-") for name in contents.digests)
    if num_named != number if complete else contents.problems:
        contents.require(False, f"names {num_named} shards; {manifest['num_samples']} samples are in {number}")
        return  # a number that nothing confirms may be too large to go through
    shards = split_into_shards(manifest["num_samples"], manifest["shard_size"], manifest.get("shard_rows"))
    _require_no_other_shards(contents, shards)
    contents.check_names(hashed=complete)
    if complete:
        digests = {shard.rows_file: contents.digests.get(shard.rows_file) for shard in shards}
        same = artifacts.content_hash([manifest["inputs"], digests]) == manifest["content_hash"]
        contents.require(same, "has another content_hash than its inputs and shards")
    else:
        shards = _done_shards(contents, shards)
    unreadable, dim = _read_done_files(contents, shards, complete)
    for shard in shards:
        _check_rows(contents, shard, dim, unreadable)
    if complete:
        listed = contents.array(UNREADABLE_FILE, (manifest["num_unreadable"],), "int64")
        same = listed is None or np.array_equal(listed, unreadable)
        contents.require(same, "lists other samples than the shards", UNREADABLE_FILE)


def _require_no_other_shards(contents: Contents, shards: list[Shard]) -> None:
    own = {name for shard in shards for name in (shard.rows_file, shard.done_file)}
    for name in sorted(names_in(contents.folder) - own):
        contents.require(not name.startswith("rows-"), "is of another run: this store has no such shard", name)


def _done_shards(contents: Contents, shards: list[Shard]) -> list[Shard]:
    there = names_in(contents.folder)
    done = [shard for shard in shards if shard.done_file in there]
    contents.require(
        False,
        f"says that the store is incomplete: {len(shards) - len(done)} of {len(shards)} shards are missing. Run the "
        "extraction again; it resumes where it stopped",
    )
    return done


def _read_done_files(contents: Contents, shards: list[Shard], complete: bool) -> tuple[np.ndarray, int]:
    """What the shards say of themselves: which samples are unreadable, int64 ascending, and how wide they are.

    They must say what the manifest says; while the store is incomplete, they are all there is to go by.
    """
    dim, listed = contents.manifest.get("dim", -1), contents.manifest.get("unreadable", [])
    inputs_hash = artifacts.content_hash(contents.manifest["inputs"])
    indices: list[int] = []
    reasons: list[dict[str, Any]] = []
    for shard in shards:
        done = contents.json(shard.done_file)
        if done is None:
            continue
        if not complete:
            dim = done["dim"] if dim < 0 else dim
            contents.digests[shard.rows_file] = done["sha256"]
        expected = (contents.digests.get(shard.rows_file), dim, inputs_hash)
        same = (done["sha256"], done["dim"], done["inputs"]) == expected
        contents.require(same, "does not fit the manifest: it was edited, or is of another run", shard.done_file)
        told = sorted((int(index), reason) for index, reason in done["unreadable"].items())
        within = all(shard.start <= index < shard.stop for index, _ in told)
        contents.require(within, "names unreadable samples of other shards", shard.done_file)
        indices += [index for index, _ in told]
        reasons += [{"index": index, "reason": reason} for index, reason in told[: len(listed) - len(reasons)]]
    contents.require(listed == reasons, "names other unreadable samples, or reasons, than the shards")
    return np.array(indices, dtype=np.int64), dim


def _check_rows(contents: Contents, shard: Shard, dim: int, unreadable: np.ndarray) -> None:
    shape, dtype = (shard.stop - shard.start, dim), contents.manifest["dtype"]
    done = contents.json(shard.done_file) or {}
    told = contents.manifest.get("rows_in", {}).get(shard.rows_file, done.get("rows_in"))
    contents.require(told == done.get("rows_in"), "names another file of its rows than the manifest", shard.done_file)
    if told is None:
        rows = contents.array(shard.rows_file, shape, dtype)
    else:
        rows = contents.rows_elsewhere(shard.rows_file, told, shape, dtype)
    if rows is not None:
        finite = all(np.isfinite(block).all() for _, block in blocks(rows))
        contents.require(finite, "holds features that are NaN or infinite", shard.rows_file)
        here = unreadable[(shard.start <= unreadable) & (unreadable < shard.stop)]
        zero = not rows[here - shard.start].any()
        contents.require(zero, "holds features of samples that could not be read", shard.rows_file)


def check_codebook(contents: Contents) -> None:
    """Checks a codebook."""
    expected = array_shapes(contents.manifest)
    arrays = {name: contents.array(name, shape, dtype) for name, (shape, dtype) in expected.items()}
    for name, array in arrays.items():
        finite = array is None or all(np.isfinite(block).all() for _, block in blocks(array))
        contents.require(finite, "holds values that are NaN or infinite", name)
    fine_counts, num_clusters = arrays.get(FINE_COUNTS_FILE), contents.manifest["num_clusters"]
    if fine_counts is not None:
        split = is_split(fine_counts, num_clusters)
        contents.require(split, f"must give each of {num_clusters} clusters to a coarse one", FINE_COUNTS_FILE)
    counts, num_points = arrays[COUNTS_FILE], contents.manifest["num_points"]
    num_samples = contents.manifest["num_samples"]
    same = contents.manifest["inputs"]["features"]["dataset"]["num_samples"] == num_samples >= num_points
    contents.require(same, "counts other samples than its inputs")
    if counts is not None:
        whole = counts.sum() == num_points and counts.min() >= 0
        contents.require(
            whole, f"counts {counts.sum()} features, or less than none, the manifest {num_points}", COUNTS_FILE
        )
        _check_iterations(contents, counts if whole else None)


def _check_iterations(contents: Contents, counts: np.ndarray | None) -> None:
    """Checks what the manifest says of the iterations, where it does."""
    manifest = contents.manifest
    objective = manifest.get("objective", [])
    lengths = {len(manifest.get(name, objective)) for name in ("objective", "shares", "empty_clusters_repaired")}
    same = lengths == {len(objective)} and manifest.get("num_iter_run", len(objective)) == len(objective)
    contents.require(same, "says another number of iterations than it has objectives")
    contents.require(all(value >= 0 for value in objective), "has an objective below 0")
    if counts is not None:
        num_empty = int((counts == 0).sum())
        told = manifest.get("num_empty_clusters", num_empty)
        contents.require(told == num_empty, f"says that {told} clusters are empty; {num_empty} are")


def check_labels(contents: Contents) -> None:
    """Checks pseudo-labels."""
    manifest = contents.manifest
    contents.check_samples(manifest["inputs"]["features"]["dataset"])
    contents.check_names()
    num_clusters = manifest["num_clusters"]
    columns = () if len(num_clusters) == 1 else (len(num_clusters),)
    sizes = contents.array(SIZES_FILE, (*columns, max(num_clusters)), "int64")
    shape = (manifest["num_samples"], *columns)
    labels = contents.array(LABELS_FILE, shape, "int64")
    distances = contents.array(DISTANCES_FILE, shape, "float32")
    margins = contents.array(MARGINS_FILE, shape, "float32")
    if sizes is None or labels is None or distances is None or margins is None:
        return
    if (top_clusters := manifest["inputs"].get("top_clusters", 1)) != 1:
        check_nearest(contents, top_clusters, labels, distances, margins)
    counts = _LabelCounts(num_clusters, manifest["inputs"]["max_distance"])
    for start, (labels_n, distances_n, margins_n) in blocks(labels, distances, margins):
        counts.add(start, *(array.reshape(len(array), -1) for array in (labels_n, distances_n, margins_n)))
    for problem, number in counts.broken.items():
        contents.require(not number, f"{problem} ({number} times)", LABELS_FILE)
    contents.require(np.array_equal(sizes.reshape(counts.sizes.shape), counts.sizes), "miscounts labels", SIZES_FILE)
    for name, found in counts.facts().items():
        contents.require(manifest.get(name) == found, f"has {name} {manifest[name]}; the labels have {found}")
    listed = [entry["index"] for entry in manifest["unreadable"]]
    contents.require(listed == counts.first_unreadable[: len(listed)], "lists other unreadable samples than the labels")
    _check_bound(contents, counts)


def _check_bound(contents: Contents, counts: _LabelCounts) -> None:
    """Checks that no cluster is larger than the bound of the inputs, and what the manifest says of it."""
    facts, ratio = contents.manifest.get("bounded"), contents.manifest["inputs"].get("max_cluster_size", 0)
    contents.require(bool(ratio) == (facts is not None), "has a bound on clusters where its inputs have none")
    if not ratio or facts is None:
        return
    number = int(counts.sizes.sum())
    limit, largest = capacity(ratio, number, len(counts.sizes[0])), int(counts.sizes.max())
    contents.require(
        largest <= limit, f"gives a cluster {largest} samples, the bound is {limit} ({ratio} of the mean)", LABELS_FILE
    )
    same = min(facts["limit"], number) == limit and facts["max_cluster_size"] == ratio
    contents.require(same, f"says that the bound is {facts['limit']}; it is {limit}")
    contents.require(facts["largest"] == largest, f"says that the largest cluster has {facts['largest']}: {largest}")
    mean, told = counts.total_distance / max(1, number), facts["mean_distance"]
    contents.require(math.isclose(told, mean, rel_tol=1e-6), f"says that the mean distance is {told}; it is {mean}")
    # By the rounding of distances to float32, labels that are older may seem to cost less than the least cost.
    least = max(facts["mean_distance_at_least"], facts["mean_distance_unbounded"])
    contents.require(least <= told * (1 + 1e-4), f"says that labels cost {told}, less than the least cost, {least}")


class _LabelCounts:
    """What is counted in one pass over labels, distances and margins of shape (n, L)."""

    def __init__(self, num_clusters: list[int], max_distance: float | None) -> None:
        self.num_clusters = np.array(num_clusters)
        self.max_distance = max_distance
        self.sizes = np.zeros((len(num_clusters), max(num_clusters)), dtype=np.int64)
        self.broken: Counter[str] = Counter()
        self.num_unreadable = self.num_unlabelled = 0
        self.total_distance = 0.0
        self.first_unreadable: list[int] = []

    def add(self, start: int, labels: np.ndarray, distances: np.ndarray, margins: np.ndarray) -> None:
        """Counts a block, whose first sample is ``start``."""
        unreadable = distances == UNLABELLED
        unlabelled = unreadable if self.max_distance is None else unreadable | (distances > self.max_distance)
        known = (labels >= UNLABELLED) & (labels < self.num_clusters)
        rules = {
            "holds labels outside of -1 to K - 1": known,
            "must hold -1 for samples that are unreadable or farther than max_distance, and only there": (
                (labels == UNLABELLED) == unlabelled
            ),
            f"has no finite distance >= 0 in {DISTANCES_FILE}": unreadable | (distances >= 0) & np.isfinite(distances),
            f"has no margin in {MARGINS_FILE}": np.where(
                unreadable, margins == UNLABELLED, np.isinf(margins) == (self.num_clusters == 1)
            )
            & ~np.isnan(margins),
        }
        self.broken.update({problem: int((~holds).sum()) for problem, holds in rules.items()})
        for sizes, column in zip(self.sizes, np.where(known, labels, UNLABELLED).T, strict=True):
            sizes += np.bincount(column[column >= 0], minlength=len(sizes))
        self.total_distance += float(distances[labels >= 0].sum(dtype=np.float64))
        self.num_unlabelled += int((labels < 0).all(axis=1).sum())
        indices = start + np.flatnonzero(unreadable.all(axis=1))
        self.num_unreadable += len(indices)
        self.first_unreadable += indices[: _MAX_LISTED - len(self.first_unreadable)].tolist()

    def facts(self) -> dict[str, Any]:
        """What the manifest must say."""
        return {
            "num_unreadable": self.num_unreadable,
            "num_too_far": self.num_unlabelled - self.num_unreadable,
            "num_unlabelled": self.num_unlabelled,
            "imbalance": [
                float(sizes.max() * number / sizes.sum()) if sizes.any() else 0.0
                for sizes, number in zip(self.sizes, self.num_clusters.tolist(), strict=True)
            ],
            "num_empty_clusters": [
                int((sizes[:number] == 0).sum()) for sizes, number in zip(self.sizes, self.num_clusters, strict=True)
            ],
        }
