"""Turn the merged statistics of `raymtl check` into the figures of its report."""

import datetime as dt
from collections.abc import Iterable

import numpy as np

from raymtl.config.features import Scaled
from raymtl.config.root import Config
from raymtl.data.contract import Column, derived_columns, required_columns
from raymtl.data.sketch import HyperLogLog
from raymtl.data.validation.report import (
    MOST_PLACES,
    BrokenPlace,
    BrokenReport,
    ColumnReport,
    FunnelReport,
    LabelRate,
    PartReport,
    RequestReport,
    ScenarioReport,
    TableReport,
    TaskReport,
)
from raymtl.data.validation.rules import expected_shared
from raymtl.data.validation.statistics import ColumnStats, Partial

_MOST_UNLISTED = 100


def build_report(report: PartReport, partial: Partial, config: Config) -> None:
    """Fill in the figures of a part."""
    columns = {c.used_by: c for c in (*required_columns(config), *derived_columns(config))}
    sketches: dict[str, HyperLogLog] = {}
    for use, stats in partial.columns.items():
        name = use.removeprefix("features.")
        if name != use:
            figures = _column(columns[use], stats)
            report.features[name] = figures
            if stats.ids is not None:
                figures.table = config.table_of(name)
                sketches.setdefault(figures.table, HyperLogLog()).merge(stats.ids)
            feature = config.features.get(name)  # None for the weights of one
            if isinstance(feature, Scaled) and stats.scaled.count:
                figures.scaled_mean, figures.scaled_std = stats.scaled.mean, stats.scaled.std
                figures.clipped = stats.clipped if feature.clip else None
        elif not use.endswith((".label", ".observed")) and use != "data.scenario.column":
            report.others[use] = _column(columns[use], stats)
    for table, sketch in sketches.items():
        spec, distinct = config.tables[table], sketch.estimate()
        shared = expected_shared(distinct, spec.rows) if spec.id_space == "hash" else None
        report.tables[table] = TableReport(spec.id_space, spec.rows, distinct, shared)
    _tasks(report, partial, config)
    _broken(report, partial)
    _scenario(report, partial, config)
    _requests(report, partial, config)


def _column(column: Column, stats: ColumnStats) -> ColumnReport:
    figures = ColumnReport(column.kind, column.name, stats.rows, stats.nulls)
    if column.kind in ("number", "numbers", "vector"):
        figures.not_finite = stats.nan + stats.infinite
    if stats.numbers.count:
        figures.min, figures.max = stats.numbers.low, stats.numbers.high
        figures.mean, figures.std = stats.numbers.mean, stats.numbers.std
    if stats.ids is not None:
        figures.distinct = stats.ids.estimate()
    if stats.buckets is not None:
        figures.buckets = stats.buckets.tolist()
    if column.kind == "numbers":
        figures.elements, figures.null_elements = stats.elements, stats.null_elements
    if column.kind in ("ids", "map"):
        filled = stats.rows - stats.empty
        figures.empty, figures.null_elements = stats.empty, stats.null_elements
        figures.longest, figures.cut = stats.longest, stats.cut
        figures.mean_length = stats.elements / filled if filled else 0.0
    if column.kind == "time":
        figures.off_day = stats.off_day
        if stats.numbers.count:
            figures.min, figures.max = _moment(stats.numbers.low), _moment(stats.numbers.high)
            figures.mean = figures.std = None
    return figures


def _moment(microseconds: float) -> str:
    try:
        return (dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=microseconds)).isoformat(
            sep=" ", timespec="seconds"
        )
    except OverflowError:
        return f"{microseconds / 1e6:.0f} s after 1970"


def _tasks(report: PartReport, partial: Partial, config: Config) -> None:
    tasks, scenario = config.active_tasks(), config.data.scenario
    groups = scenario.names if scenario else []
    counts = np.stack([partial.labels[d] for d in sorted(partial.labels)]) if partial.labels else np.zeros((0, 0, 0, 6))
    for t, (name, task) in enumerate(tasks.items()):
        if not partial.labels or not counts[:, t, :, 0].any():
            continue
        days = {d: _rate(counts[n, t].sum(0)) for n, d in enumerate(sorted(partial.labels))}
        report.tasks[name] = TaskReport(
            task.kind,
            task.label_column(name),
            _rate(counts[:, t].sum((0, 1))),
            days,
            {group: _rate(counts[:, t, g].sum(0)) for g, group in enumerate(groups)},
        )
    report.late = {name: int(late) / int(ones) for name, (ones, late) in partial.arrivals.items() if ones}
    for child, (rows, positives, violations) in partial.funnel.items():
        found = partial.out_of_order.get(child, {})
        first = f"{min(found)}, row {found[min(found)].row}" if found else None
        parent = tasks[child].parent
        assert parent is not None
        report.funnel.append(FunnelReport(child, parent, int(rows), int(positives), int(violations), first))


def _rate(counts: Iterable[float]) -> LabelRate:
    rows, observed, total, squares, weighed, zeros = counts
    if not observed:
        return LabelRate(int(rows), 0, None)
    return LabelRate(
        int(rows), int(observed), float(total / observed), float(squares / observed), int(weighed), int(zeros)
    )


def _broken(report: PartReport, partial: Partial) -> None:
    for (column, rule), files in partial.broken.items():
        places = [BrokenPlace(p, files[p].row, files[p].value, files[p].count) for p in sorted(files)[:MOST_PLACES]]
        count = sum(f.count for f in files.values())
        report.broken.append(
            BrokenReport(column.name, column.used_by, rule.noun, rule.expected, rule.remedy, count, len(files), places)
        )


def _scenario(report: PartReport, partial: Partial, config: Config) -> None:
    scenario = config.data.scenario
    stats = partial.columns.get("data.scenario.column")
    if scenario is None or stats is None:
        return
    listed = {str(v): partial.scenarios.get(str(v), 0) for v in scenario.values}
    unlisted = {v: n for v, n in partial.scenarios.most_common() if v not in listed}
    shown = dict(list(unlisted.items())[:_MOST_UNLISTED])
    if len(unlisted) > len(shown):
        shown["…"] = sum(unlisted.values()) - sum(shown.values())
    report.scenario = ScenarioReport(scenario.column, listed, shown, stats.nulls)


def _requests(report: PartReport, partial: Partial, config: Config) -> None:
    found, of_users = partial.requests, config.request_features()
    if not found.requests:
        return
    column = partial.columns.get("data.request")
    distinct = None if column is None or column.ids is None else column.ids.estimate() + column.nulls
    report.requests = RequestReport(
        found.requests,
        found.rows / found.requests,
        found.longest,
        distinct,
        found.user_bytes / max(found.bytes, 1),
        [name for name, count in found.changes.items() if not count and name not in of_users],
    )
