"""The tasks of the labels: kind, order of the funnel, what tells which labels are final."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raymtl.errors import DataError
from raymtl.init import words as names
from raymtl.init.label_values import event_labels, event_values, named_values, written_values
from raymtl.init.profile import ColumnProfile, Profile
from raymtl.init.roles import Guess
from raymtl.words import count_of

_INSIDE = 0.995
"""A label whose positives have the other label in this share of rows comes after it in the funnel."""
_FEW = 20
_NUMBERS = ("flag", "integer", "float")
_AMOUNT_WEIGHT = 0.2
"""Sums and counts have larger losses than events, which they would drown."""
_EXPECTED = frozenset({"mean", "expected"})


def make_tasks(profile: Profile, guesses: Mapping[str, Guess]) -> dict[str, tuple[dict[str, Any], str]]:
    """Each label's task and the reason; a parent stands before its children."""
    labels = [name for name, guess in guesses.items() if guess.role == "label"]
    for name in labels:
        _check(name, profile.columns[name])
    events = [name for name in labels if event_values(profile.columns[name])]
    parents = _parents(profile, events)
    ordered = sorted(events, key=lambda name: len(_above(name, parents)))
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for name in ordered:
        parent = parents.get(name)
        why = f"; its positives all have `{parent}`" if parent else ""
        values = written_values(profile.columns[name])
        if named_values(profile.columns[name]) is None:
            why = f"; `{values['positive']}` as the rarer value{why}"
        found[name] = {"kind": "binary", **values, **({"parent": parent} if parent else {})}, guesses[name].why + why
    for name in labels:
        if name not in events:
            column = profile.columns[name]
            whole = column.kind == "integer" and column.numbers.low >= 0
            spans = {"transform": "log1p"} if not whole and column.numbers.low >= 0 else {}
            task = {"kind": "count" if whole else "real", **spans, "weight": _AMOUNT_WEIGHT}
            found[name] = task, guesses[name].why
    for name, (task, _) in found.items():
        task |= _more(name, [*found], profile, guesses)
    return found


def _check(name: str, column: ColumnProfile) -> None:
    """Raise DataError if a column cannot be a label."""
    few = (
        sorted(column.values)
        if column.values is not None and column.kind in _NUMBERS and len(column.values) <= 2
        else None
    )
    if event_values(column) is not None and not column.not_finite:
        return
    if column.kind not in _NUMBERS:
        problem = f"holds {column.kind}"
    elif column.not_finite:
        problem = f"has {count_of(column.not_finite, 'value')} NaN or infinite"
    elif few is not None:
        problem = f"holds only {' and '.join(map(str, few))}" if few else "has no value"
    else:
        return
    remedy = "write 0 and 1 (or a quantity), null where it is unknown, or name another column with --label"
    if column.kind == "text":
        remedy += "; of text `raymtl init` takes only two values: for more, add a task with `positive` and `negative` to the file"
    raise DataError(f"column `{name}` cannot be a label: it {problem}; {remedy}")


def _parents(profile: Profile, events: list[str]) -> dict[str, str]:
    """For each event the rarest other one that all its positives have."""
    values = {name: event_labels(profile, name) for name in events}
    rates = {name: np.nanmean(v) if (~np.isnan(v)).any() else 0.0 for name, v in values.items()}
    found = {}
    for name in events:
        above = []
        for other in events:
            both = (values[name] == 1) & ~np.isnan(values[other])
            if rates[other] > rates[name] and both.sum() >= _FEW and (values[other][both] == 1).mean() >= _INSIDE:
                above.append(other)
        if above:
            found[name] = min(above, key=lambda n: rates[n])
    return found


def _above(name: str, parents: Mapping[str, str]) -> list[str]:
    """The chain of an event's parents."""
    chain = []
    while name in parents:
        name = parents[name]
        chain.append(name)
    return chain


def _more(name: str, tasks: list[str], profile: Profile, guesses: Mapping[str, Guess]) -> dict[str, Any]:
    """The columns that say whether the label counts, and what it should have been."""
    more: dict[str, Any] = {}
    for column, guess in guesses.items():
        of = names.words(column)
        if guess.role == "observed" and (_ends(name, of) or not any(_ends(task, of) for task in tasks)):
            more["observed"] = column
        elif of[1:] == names.words(name) and (guess.role == "truth" or of[0] in _EXPECTED):
            more["truth"] = column
    return more


def _ends(task: str, flag: list[str]) -> bool:
    """Whether a flag names a task: `buy_mature` is of `buy`."""
    own = names.words(task)
    return flag[: len(own)] == own or flag[-len(own) :] == own
