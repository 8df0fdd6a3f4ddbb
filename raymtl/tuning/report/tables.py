"""Tables of a search: all trials, what failed, the recommended configuration beside the default, fresh seeds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raymtl.reports.page import OPEN_ROWS, Cell, Collapsible, Grid, Kind, Part
from raymtl.reports.style import duration, short_count, significant
from raymtl.tuning.report.outcome import Seeds
from raymtl.tuning.report.report_data import View, config_value
from raymtl.tuning.trial_store import Trial


def field_text(value: Any) -> str:
    """A value of a field, numbers rounded."""
    if isinstance(value, bool | None):
        return "–" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else significant(value, 3)
    return value if isinstance(value, str) else json.dumps(value)


def trials_table(view: View) -> list[Part]:
    """A row per trial, the best first; folded when long."""
    dimensions = view.search.space.dimensions
    front = set(view.result["front"])
    metrics = [*view.goals, *(name for name in view.limits if name not in view.goals)]
    rows = []
    for trial in view.ranked(view.trials):
        marks = [
            "recommended" if trial is view.recommended else "best" if trial is view.best else "",
            "default" if trial.kind == "default" else "",
            "front" if trial.number in front and trial is not view.best else "",
        ]
        state = trial.status if view.meets_limits(trial) or trial.status != "finished" else "breaks a limit"
        rows.append(
            [
                Cell(str(trial.number), "name", note=", ".join(m for m in marks if m)),
                Cell(state, "part"),
                *(_metric(view, trial, name) for name in metrics),
                *(Cell(_param_text(view, trial, dimension.name, dimension.fields[0])) for dimension in dimensions),
                Cell(short_count(trial.rows)),
                Cell(duration(trial.train_seconds)),
            ]
        )
    names = [dimension.name.replace(".", ".\u200b") for dimension in dimensions]  # may break after every dot
    columns = ["trial", "state", *(m.replace(".", ".\u200b") for m in metrics), *names, "rows", "trained"]
    table = Grid(columns, rows, tight=True)
    return [Collapsible(f"All {len(rows)} trials", [table])] if len(rows) > OPEN_ROWS else [table]


def _metric(view: View, trial: Trial, name: str) -> Cell:
    value = view.value(trial, name)
    at = view.limit(name)
    broken = value is not None and at is not None and (value > at if view.limit_is_ceiling(name) else value < at)
    kind: Kind = "look" if broken else "faint" if trial.status != "finished" else ""
    return Cell(view.show(name, value), kind)


def _param_text(view: View, trial: Trial, name: str, field: str) -> str:
    """What a trial has in a dimension; the default where the space does not hold it shows the field."""
    dimension = next(dimension for dimension in view.search.space.dimensions if dimension.name == name)
    if name in trial.params:
        return field_text(dimension.value(trial.params[name]))
    return (
        field_text(config_value(trial.config, field)) if trial.kind == "default" and name in dimension.fields else "–"
    )


def failures_table(view: View) -> list[Part]:
    """Why trials failed, repeats too; folded when many."""
    failed = [t for t in view.search.trial_store.trials.values() if t.status == "failed"]
    rows = []
    for trial in sorted(failed, key=lambda t: t.number):
        what = trial.kind if trial.of is None else f"repeat of {trial.of}, seed {trial.seed}"
        fields = ", ".join(f"{name} {field_text(value)}" for name, value in trial.fields.items())
        cells = [Cell(str(trial.number), "name"), Cell(what, "part"), Cell(short_count(trial.rows))]
        rows.append([*cells, Cell(trial.reason or "no reason was recorded", "why"), Cell(fields or "default", "why")])
    table = Grid(["trial", "kind", "rows", "reason", "fields"], rows)
    return [Collapsible(f"{len(rows)} failed trials", [table])] if len(rows) > OPEN_ROWS else [table]


def fields_table(view: View) -> Grid:
    """The fields of the best trial beside the default, those that differ first."""
    best = view.best
    rows = []
    found = best.fields if best is not None else {}
    base = {name: config_value(view.search.space.base, name) for name in found}
    for name, value in sorted(found.items(), key=lambda item: (base[item[0]] == item[1], item[0])):
        before, same = base[name], base[name] == value
        factor = value / before if _is_number(value) and _is_number(before) and before and not same else None
        aside = "" if factor is None or factor <= 0 else f"× {factor:.3g}"
        rows.append(
            [
                Cell(name, "name"),
                Cell(field_text(before)),
                Cell(field_text(value), "faint" if same else "", note=aside),
            ]
        )
    return Grid(["field", "default", _best_name(view)], rows, narrow=True)


def _best_name(view: View) -> str:
    return "best" if view.best is None else f"trial {view.best.number}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def seeds_table(view: View, by_metric: Mapping[str, Seeds]) -> Grid:
    """Every fresh seed, metric by metric: default, best trial, and the difference."""
    rows: list[list[Cell]] = []
    heads: set[int] = set()
    for name, found in by_metric.items():
        heads.add(len(rows))
        for i, (seed, values) in enumerate(sorted(found.items())):
            a, b = values.get("default"), values.get("best")
            gain = "–" if a is None or b is None else view.difference(name, b - a)
            first = Cell(name if i == 0 else "", "name", view.colour(name, "") if i == 0 else "")
            rows.append([first, Cell(str(seed)), Cell(view.show(name, a)), Cell(view.show(name, b)), Cell(gain)])
    return Grid(["metric", "seed", "default", _best_name(view), "difference"], rows, frozenset(heads), narrow=True)


def gains_table(view: View, gains: Sequence[Mapping[str, Any]]) -> Grid:
    """Means over fresh seeds, and whether they differ by more than noise."""
    rows = []
    for gain in gains:
        name = gain["metric"]
        a, b = (_mean(view, name, gain[who]) for who in ("default", "best"))
        half = gain["interval"]
        word, kind = gain_word(gain)
        error = "–" if half is None else view.difference(name, half).lstrip("+")
        cells = [Cell(name, "name", view.colour(name, "")), Cell(view.show(name, a))]
        rows.append(
            [*cells, Cell(view.show(name, b)), Cell(view.difference(name, b - a)), Cell(error), Cell(word, kind)]
        )
    return Grid(["metric", "default", _best_name(view), "difference", "±", ""], rows, narrow=True)


def gain_word(gain: Mapping[str, Any]) -> tuple[str, Kind]:
    """Better, worse, or within the noise."""
    if gain["beyond_noise"] is None:
        return "the seeds show no noise", "faint"
    if not gain["beyond_noise"]:
        return "within the noise", "faint"
    return ("better", "good") if gain["gain"] > 0 else ("worse", "look")


def _mean(view: View, name: str, values: Sequence[float]) -> float:
    """Of signed values, as the metric itself."""
    mean = sum(values) / len(values)
    return -mean if view.lower(name) else mean
