"""The configuration for the guesses, as YAML whose comments say why."""

import datetime as dt
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raymtl.config.data import as_roots
from raymtl.config.load import config_from_dict
from raymtl.config.task_kinds import find_kind
from raymtl.config.yamltext import dump_yaml, parse_yaml
from raymtl.errors import DataError
from raymtl.init.days import Days
from raymtl.init.profile import ColumnProfile, Profile, log1p
from raymtl.init.quantiles import quantile_edges
from raymtl.init.requests import Nested, shared_columns
from raymtl.init.roles import Guess, column_numbers, scenario_values
from raymtl.init.tasks import make_tasks
from raymtl.words import count_of, some_of

_SKEWED = 2.0
_RANGES = 16
_LEAST_EDGES = 3
"""Of a piecewise linear encoding with as many ranges at most; numbers of fewer different values stay as they are."""
_ROWS_PER_RANGE = 1000
"""With fewer rows for each range of all numbers, the slopes of the ranges learn noise (docs/init.md has the numbers)."""
_SMALL_TABLE = 4096
_HASH_MOST = 100_000
"""Tables of more IDs get a map, in which no two IDs share a row."""
_MAP_SLACK = 1.25
_MOST_LENGTH = 50
_LONGEST = 160
_OVERLAP = 0.2
_FEW_ROWS = 500_000
_OFTEN = 100
_EPOCHS = 3
"""Epochs for fewer rows, if each ID occurs so often."""


@dataclass
class _Entry:
    """One key of a section, with its comment."""

    name: str
    value: Any
    why: str = ""

    @property
    def text(self) -> str:
        line = dump_yaml({self.name: self.value}).rstrip("\n")
        line = line.removeprefix("{").removesuffix("}") if line.startswith("{") else line
        first, newline, rest = line.partition("\n")
        return f"{first}  # {_comment(self.why)}{newline}{rest}" if self.why else line


def _comment(text: str) -> str:
    """Text on one line, whatever the logs hold."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def compose(name: str, days: Days, profile: Profile, guesses: Mapping[str, Guess], nested: Nested | None = None) -> str:
    """The text of a configuration that `raymtl check` passes. Raises DataError if there is no label or no feature."""
    keys = _keys(profile.columns)
    tasks = {keys[column]: _named(column, found, keys) for column, found in make_tasks(profile, guesses).items()}
    if not tasks:
        raise DataError(
            f"{_quoted(days.path)} has no column that looks like a label (0 and 1, with the name of an event); name it with "
            f"--label COLUMN. The columns are {', '.join(profile.columns)}"
        )
    features, tables = _features(profile, guesses, keys, shared_columns(profile, guesses, nested))
    if not features:
        raise DataError(
            f"{_quoted(days.path)} has no column for a feature besides its labels; write the columns that a model may read"
        )
    left_out = [_comment(f"{n}: {g.why}") for n, g in guesses.items() if g.role in ("ignore", "truth")]
    sections = {
        "data": _data(days, profile, guesses, nested),
        "features": features,
        "tables": tables,
        "tasks": [_Entry(task, value, why) for task, (value, why) in tasks.items()],
        "model": _model(features, tasks),
        "train": _train(days.train_rows, tasks, profile, guesses),
    }
    read = f"{profile.rows:,} rows" if profile.sample.num_rows else "the schema alone"
    lines = [f"# Written by `raymtl init` from {read}; docs/config.md has all keys."]
    lines += [_Entry("name", name).text]
    for section, entries in sections.items():
        if not entries:
            continue
        lines += ["", f"{section}:"]
        lines += ["  # 8 rows or more for each value, so that few share one, unless it says more"] * (
            section == "tables"
        )
        lines += [f"  {line}" for entry in entries for line in entry.text.splitlines()]
        if section == "features" and left_out:
            lines += ["  # Left out:", *(f"  #   {line}" for line in left_out)]
    text = "\n".join(lines) + "\n"
    config_from_dict(parse_yaml(text, "the new configuration"), "the new configuration")
    return text


def _quoted(path: str | list[str]) -> str:
    return ", ".join(f"`{root}`" for root in as_roots(path))


def _data(days: Days, profile: Profile, guesses: Mapping[str, Guess], nested: Nested | None) -> list[_Entry]:
    entries = [_Entry("path", days.path)]
    if (days.layout.key, days.layout.format) != ("ds", "%Y-%m-%d"):
        entries.append(_Entry("partition", {"key": days.layout.key, "format": days.layout.format}))
    why = f"left out {'; '.join(days.notes)}" if days.notes else ""
    entries.append(_Entry("train", _range(days.train), why))
    if days.eval is not None:
        entries.append(_Entry("eval", _range(days.eval), "" if days.eval_path else "the last day"))
    else:
        entries.append(_Entry("eval", None, "there is only one day; set another one to evaluate on"))
    if days.eval_path is not None:
        entries.append(_Entry("eval_path", days.eval_path))
    if nested is not None:
        why = f"a row is a request; its impressions hold {some_of(sorted(nested.labels), 'label')}"
        entries.append(
            _Entry("impressions", nested.columns[0] if len(nested.columns) == 1 else list(nested.columns), why)
        )
    for column, guess in guesses.items():
        if guess.role == "scenario":
            listed = scenario_values(profile.columns[column])
            entries.append(_Entry("scenario", {"column": column, "values": listed}, guess.why))
        elif guess.role in ("weight", "group", "request"):
            entries.append(_Entry(guess.role, column, guess.why))
        elif guess.role == "time":
            entries.append(_Entry("timestamp", column, guess.why))
    return entries


def _features(
    profile: Profile, guesses: Mapping[str, Guess], keys: Mapping[str, str], of_requests: Collection[str] | None
) -> tuple[list[_Entry], list[_Entry]]:
    """The features, and the tables that they look up; `of_requests` are the columns with a value per request."""
    features: list[_Entry] = []
    tables: list[_Entry] = []
    numbers = sum(guess.role == "dense" for guess in guesses.values())
    in_ranges = profile.rows >= _ROWS_PER_RANGE * _RANGES * numbers
    for name, guess in guesses.items():
        column = profile.columns[name]
        more = _column(name, keys) | ({} if of_requests is None else _side(guess, name in of_requests))
        if guess.role == "dense":
            value, how = _dense(name, profile, in_ranges)
            features.append(_Entry(keys[name], value | more, f"{guess.why}{how}"))
        elif guess.role == "vector":
            features.append(_Entry(keys[name], {"kind": "vector", "width": column.longest} | more, guess.why))
        elif guess.role in ("id", "group", "scenario", "bias", "ids", "sequence"):
            kind = guess.role if guess.role in ("ids", "sequence", "bias") else "id"
            value = {"kind": kind} | more
            if kind == "sequence" or (kind == "ids" and column.longest > _MOST_LENGTH):
                value["max_length"] = min(column.longest or _MOST_LENGTH, _MOST_LENGTH)
            shared = _shared_table(name, profile, guesses) if kind == "sequence" else None
            if shared is not None:
                value["table"] = keys[shared]
            else:
                tables.append(_table(keys[name], column))
            features.append(_Entry(keys[name], value, guess.why))
    return features, tables


def _side(guess: Guess, of_user: bool) -> dict[str, str]:
    """The side of a feature, if it is not what it would be without."""
    by_default = guess.role in ("sequence", "group")
    return {} if guess.role == "bias" or of_user == by_default else {"side": "user" if of_user else "item"}


def _keys(columns: Iterable[str]) -> dict[str, str]:
    """A name for the feature, the table and the task of each column: its own, as far as such names may be."""
    keys: dict[str, str] = {}
    for number, column in enumerate(columns):
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in column)[:90]
        name = name if name.strip("_") else f"column_{number}"
        name = f"_{name}" if name[0].isdigit() else name
        while name in keys.values():
            name = f"{name}_{number}"
        keys[column] = name
    return keys


def _column(name: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {} if keys[name] == name else {"column": name}


def _named(column: str, found: tuple[dict[str, Any], str], keys: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """A task of a column, with the names of tasks instead of columns."""
    task, why = found
    label = {} if keys[column] == column else {"label": column}
    parent = {"parent": keys[task["parent"]]} if "parent" in task else {}
    return {**task, **label, **parent}, why


def _dense(name: str, profile: Profile, in_ranges: bool) -> tuple[dict[str, Any], str]:
    column = profile.columns[name]
    sample = column_numbers(profile.sample.column(name))
    sample = sample[np.isfinite(sample)]
    plain, logs = _skew(sample), _skew(log1p(sample))
    heavy = abs(plain) > _SKEWED and abs(logs) < abs(plain) / 2
    if not profile.sample.num_rows:  # the rows were not read
        return {"kind": "dense"}, "; `raymtl check` names the mean and std to set"
    moments = column.logs if heavy else column.numbers
    std = moments.std or 1.0
    value: dict[str, Any] = {"kind": "dense", **({"transform": "log1p"} if heavy else {})}
    value |= {"mean": _rounded(moments.mean), "std": _rounded(std)}
    if in_ranges and len(edges := quantile_edges(sample, _RANGES)) >= _LEAST_EDGES:
        value["embed"] = {"type": "piecewise", "edges": edges}
    return value, ", long-tailed" if heavy else ""


def _skew(values: np.ndarray) -> float:
    if len(values) < 2 or not (spread := float(values.std())):
        return 0.0
    return float((((values - values.mean()) / spread) ** 3).mean())


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _table(name: str, column: ColumnProfile) -> _Entry:
    distinct = column.distinct
    if not column.is_read:
        rows = _round_up(max(64, 8 * distinct))
        return _Entry(name, {"rows": rows}, "a guess: `raymtl check` counts the values")
    if distinct <= _SMALL_TABLE:
        rows = max(64, 1 << math.ceil(math.log2(8 * max(1, distinct))))
        return _Entry(name, {"rows": rows}, count_of(distinct, "value"))
    if distinct <= _HASH_MOST:
        return _Entry(name, {"rows": _round_up(8 * distinct)}, f"about {distinct:,} values")
    rows = _round_up(_MAP_SLACK * distinct)
    why = f"about {distinct:,} values: each that occurs twice gets a row of its own"
    return _Entry(name, {"rows": rows, "id_space": "map", "admit_count": 2}, why)


def _round_up(rows: float) -> int:
    """The next number of two digits and zeros."""
    step = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return math.ceil(rows / step) * step


def _shared_table(history: str, profile: Profile, guesses: Mapping[str, Guess]) -> str | None:
    """The ID column that a history holds values of."""
    kind = profile.columns[history].kind.removeprefix("list of ")
    steps = profile.sample.column(history).combine_chunks().flatten().drop_null().unique()
    best, most = None, _OVERLAP
    for name, guess in guesses.items():
        if (
            guess.role == "id"
            and profile.columns[name].kind == kind
            and profile.columns[name].distinct > _SMALL_TABLE // 64
        ):
            own = profile.sample.column(name).combine_chunks().unique()
            share = pc.is_in(steps.cast(own.type), own).true_count / max(1, min(len(own), len(steps)))
            if share > most:
                best, most = name, share
    return best


def _model(features: list[_Entry], tasks: Mapping[str, tuple[dict[str, Any], str]]) -> list[_Entry]:
    kinds = {entry.value["kind"] for entry in features}
    chain = [name for name, (task, _) in tasks.items() if "parent" in task]
    if len(tasks) == 1:
        entries = [_Entry("preset", "shared_bottom", "one task")]
    elif chain:
        entries = [_Entry("preset", "mmoe", "experts shared by tasks of a funnel; aitm and esmm use its order too")]
    else:
        entries = [_Entry("preset", "mmoe", "experts shared by tasks that may disagree")]
    if "sequence" in kinds:
        entries.append(
            _Entry("sequence", {"type": "pooled"}, "the mean of each history; dupn, din and dtrn attend to its steps")
        )
    if "bias" in kinds:
        events = [name for name, (task, _) in tasks.items() if task["kind"] == "binary"]
        entries.append(
            _Entry(
                "bias",
                {"type": "position", "tasks": events or [*tasks][:1]},
                "predictions are those without its effect",
            )
        )
    return entries


def _range(days: tuple[dt.date, dt.date]) -> dict[str, str]:
    return {"start": str(days[0]), "end": str(days[1])}


def _train(
    rows: int, tasks: Mapping[str, tuple[dict[str, Any], str]], profile: Profile, guesses: Mapping[str, Guess]
) -> list[_Entry]:
    """With IDs that occur rarely, a second epoch learns the rows by heart (docs/init.md has the numbers)."""
    ids = [name for name, guess in guesses.items() if guess.role in ("id", "group", "ids", "sequence")]
    most = max(ids, key=lambda name: profile.columns[name].distinct, default=None)
    repeats = rows / profile.columns[most].distinct if most is not None else math.inf
    again = rows < _FEW_ROWS and repeats >= _OFTEN
    why = f"{rows:,} training rows"
    if not again and rows < _FEW_ROWS:
        why = (
            f"{why}, in which a value of `{most}` occurs {repeats:.0f} times: a second epoch would learn them by heart"
        )
    entries = [
        _Entry("epochs", _EPOCHS if again else 1, why),
        _Entry("schedule", {"decay": "linear", "final_factor": 0.02}),
    ]
    if all(task["kind"] != "binary" for task, _ in tasks.values()):
        name, (task, _) = next(iter(tasks.items()))
        metric = find_kind(task["kind"], task.get("transform", "none")).headline
        entries.append(_Entry("select", f"{name}.{metric}", "no task has an AUC"))
    return entries
