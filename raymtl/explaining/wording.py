"""Sentences and numbers about an explanation, for the page and the terminal."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from raymtl.config.metrics import METRICS
from raymtl.intervals import bonferroni
from raymtl.reports.tables import show
from raymtl.words import count_of, gib, visible

_SHOWN = 12


def amount(metric: str, entry: Mapping[str, float | None]) -> str:
    """A difference of a metric with half of its interval, to two digits of that: +0.0123 ± 0.0031."""
    value, low = entry["value"], entry["low"]
    if value is None:
        return "–"
    sign = "−" if value < 0 else "+"
    if low is None:
        return f"{sign}{show(METRICS[metric], abs(value))}"
    half = value - low
    if half == 0:
        return "0" if value == 0 else f"{sign}{show(METRICS[metric], abs(value))}"
    decimals = max(1 - math.floor(math.log10(half)), 0)
    return f"{sign}{abs(value):,.{decimals}f} ± {half:,.{decimals}f}"


def for_all(entry: Mapping[str, float | None], tests: int) -> dict[str, Any]:
    """An importance with the interval that a verdict on so many tests at once uses, instead of that of one."""
    value, low = entry["value"], entry["low"]
    if value is None or low is None:
        return dict(entry)
    half = (value - low) * bonferroni(tests)
    return {"value": value, "low": value - half, "high": value + half}


def interval_words(tests: int) -> str:
    """What an interval for so many tests at once is."""
    return "95 %" if tests == 1 else f"95 % for all {tests} tasks of a column at once (Bonferroni)"


def proposal_text(result: Mapping[str, Any]) -> str:
    """What to drop, and what that saves, in one or two sentences."""
    proposal = result["proposal"]
    if not proposal["useless"] and not proposal["redundant"]:
        return "every column is worth something, so there is none to drop."
    parts = []
    if proposal["useless"]:
        parts.append(
            f"{_some(map(visible, proposal['useless']))}, which no task needs as far as {count_of(result['rows'], 'row')} tell"
        )
    if proposal["redundant"]:
        pairs = (f"{visible(name)} ({visible(other)} stays)" for name, other in proposal["redundant"].items())
        parts.append(f"{_some(pairs)}, which another column stands in for")
    total = sum(column["bytes_per_row"] for column in result["columns"].values())
    saves = f"{proposal['bytes_per_row']:.1f} of the {total:.1f} bytes per row"
    if proposal["tables"]:
        saves += f", and {count_of(len(proposal['tables']), 'table')} of {gib(proposal['training_bytes'])} in training"
    return f"drop {'; and '.join(parts)}. That saves {saves}."


def found_causes(fall: Mapping[str, Any]) -> str:
    """Which column explains the falls, in a sentence for each cause."""
    causes: dict[str, list[str]] = {}
    symptoms = {}
    unexplained = []
    for task, found in fall["tasks"].items():
        if found["has_fallen"] and not found["causes"]:
            unexplained.append(task)
        for cause in found["causes"]:
            causes.setdefault(cause["column"], []).append(task)
            symptoms[cause["column"]] = cause["symptom"]
    said = [
        f"{visible(column)} explains the fall of {_listed(tasks)}: {symptoms[column]}."
        for column, tasks in causes.items()
    ]
    if unexplained:
        said.append(
            f"No column explains the fall of {_listed(unexplained)}: look at the labels, and at which rows were logged."
        )
    return " ".join(said) or "No metric has fallen beyond chance."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
