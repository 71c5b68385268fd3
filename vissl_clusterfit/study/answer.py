"""The first section of a report: does it help, by how much, at what cost, and with which targets?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from vissl_clusterfit.study.marks import as_table, plain, signed
from vissl_clusterfit.study.plan import CHOSEN_BY
from vissl_clusterfit.study.report import Report


def answer(report: Report, validated: Mapping[str, float], costs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The parts of the section; none where the study has no CANDIDATES.

    Args:
        report: of the study.
        validated: by method, its score on the validation data, of 1; of those that were tuned.
        costs: by method, the hours of processor cores and GPUs that a training of it took, on average.
    """
    settings = report.settings
    candidates = [name for name in settings.candidates if name in report.methods]
    if not candidates or CHOSEN_BY not in report.benchmarks:
        return []
    known = all(name in validated for name in candidates)
    if len(candidates) > 1 and not known:
        text = (
            "Nothing was tuned, so no score on validation data says which of the students to take: all are below, and "
            "the best of them on the test data is partly so by chance. With several values in "
            "`config.STUDY.TUNING.VALUES` the study chooses one."
        )
        return ["## Does it help?", text, _students(report, candidates, validated, costs)]
    chosen = max(candidates, key=lambda name: validated.get(name, 0.0))
    parts = ["## Does it help?", _verdict(report, chosen)]
    if len(candidates) > 1:
        parts.append(
            f"{report.shown(chosen)} is the student with the best linear probe on the validation data; the test data "
            "had no part in the choice."
        )
    return [*parts, _leads(report, chosen, candidates), _students(report, candidates, validated, costs)]


def _verdict(report: Report, chosen: str) -> str:
    baseline, name = report.shown(report.settings.baseline), report.shown(chosen)
    said = []
    for point in report.settings.named_points:
        lead = report.lead(CHOSEN_BY, report.targets[0], chosen, point)
        at = f" at {report.settings.axis} {point}" if len(report.settings.named_points) > 1 else ""
        if not lead.excludes_zero:
            text = f"**Not shown**{at}: {name} is {signed(lead)} points from {baseline}, which chance can do"
        elif lead.mean > 0:
            text = f"**Yes**{at}: {name} is ahead of {baseline} by {signed(lead)} points"
        else:
            text = f"**No**{at}: {name} is behind {baseline}, by {signed(lead)} points"
        said.append(f"- {text}.")
    note = f"By the linear probe, {report.targets[0]}; 95 % intervals over {len(report.settings.seeds)} seeds."
    return "\n".join([*said, "", note + " More seeds (`config.STUDY.SEEDS`) make them narrower."])


def _leads(report: Report, chosen: str, candidates: list[str]) -> str:
    """Over all that no student is: the baseline, and whatever else is there to be compared with."""
    points = report.settings.named_points
    others = [name for name in report.methods if name not in candidates]
    table = [[f"lead of {report.shown(chosen)} over", *points]]
    for other in others:
        leads = [report.lead(CHOSEN_BY, report.targets[0], chosen, point, over=other) for point in points]
        table.append([report.shown(other), *map(signed, leads)])
    return as_table(table)


def _students(
    report: Report,
    candidates: list[str],
    validated: Mapping[str, float],
    costs: Mapping[str, Mapping[str, float]],
) -> str:
    points = report.settings.named_points
    baseline = report.shown(report.settings.baseline)
    table = [
        ["student", "validation", *(f"lead over {baseline}, {point}" for point in points), "core hours", "GPU hours"]
    ]
    for name in candidates:
        leads = [signed(report.lead(CHOSEN_BY, report.targets[0], name, point)) for point in points]
        score = plain(validated[name]) if name in validated else ""
        cost = costs.get(name, {})
        hours = [f"{cost[kind]:.3g}" if kind in cost else "" for kind in ("core_hours", "gpu_hours")]
        table.append([report.shown(name), score, *leads, *hours])
    return (
        as_table(table)
        + "\n\nHours are those of one training, with its features, clusters and labels where it made them."
    )


def mean_costs(of_runs: Mapping[str, list[dict[str, dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """By method, what its runs took on average, of all their stages; runs of which nothing is known do not count.

    Args:
        of_runs: by method, of each run what ``read_costs`` gives.
    """
    found = {}
    for method, runs in of_runs.items():
        known = [stages for stages in runs if stages]
        if known:
            found[method] = {
                kind: statistics.fmean(sum(stage[kind] for stage in stages.values()) for stages in known)
                for kind in ("core_hours", "gpu_hours")
            }
    return found
