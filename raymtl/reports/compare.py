"""The page that compares runs: their metrics, their curves together, and what differs in their configurations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.fs as pafs
import yaml
from matplotlib.lines import Line2D

from raymtl.config.metrics import Metric
from raymtl.errors import UserError
from raymtl.reports import facts
from raymtl.reports.chance import LEGEND, interval_of
from raymtl.reports.curves import bulk
from raymtl.reports.html import run_status, write_page
from raymtl.reports.load import Run, load_run
from raymtl.reports.page import (
    Cell,
    Collapsible,
    Drawing,
    Grid,
    Heading,
    Page,
    PageStatus,
    Paragraph,
    Part,
    Section,
    metric_grid,
    render_page,
)
from raymtl.reports.plots import finite, legend_above, panels, rows_axis, smooth, styled, svg, thin
from raymtl.reports.style import PALETTE, change, count, duration, number, short_count, significant, task_colours
from raymtl.reports.tables import MetricTable, Report, headline, kind_of, tables_of
from raymtl.storage.folder import Folder
from raymtl.storage.paths import absolute, split_options

NAME = "comparison.html"
Runs = Mapping[str, Run]
"""By a name that tells them apart; all differences are to the first."""
Point = tuple[float, float]

_MISSING = object()
_LINES = ("-", "--", ":")
_SHORT = 40


def write_comparison(run_dirs: Sequence[str], out: str | None = None) -> tuple[str, dict[str, Run]]:
    """Write the page that compares runs; returns its path and the runs by name. They may still be running.

    Args:
        run_dirs: folders or URLs of at least two runs; differences are to the first.
        out: file or URL to write; none: `comparison.html` next to the first run.

    Raises:
        UserError: a folder is missing, given twice, or is not that of a run.
        StorageError: a folder cannot be read, or the page cannot be written.
    """
    folders = [Folder.open(path) for path in run_dirs]
    for i, folder in enumerate(folders):
        if any(folder.root.rstrip("/") == other.root.rstrip("/") for other in folders[:i]):
            raise UserError(f"`{folder.path}` is given twice; pass different runs")
        if folder.kind("days") == pafs.FileType.Directory:
            raise UserError(
                f"`{folder.path}` is the store of a daily job, which cannot be compared with runs; run `raymtl report "
                f"{folder.path}`"
            )
    runs = _named([load_run(folder) for folder in folders])
    target = out or beside(folders[0].path)
    write_page(target, render_page(comparison_page(runs)))
    return target, runs


def beside(path: str) -> str:
    """The path or URL of the page next to a run."""
    folder, options = split_options(absolute(path))
    return f"{folder.rstrip('/').rpartition('/')[0]}/{NAME}{options}"


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """By name; runs of one name by their folders."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else run.folder: run for run in runs}


def comparison_page(runs: Runs) -> Page:
    """The page."""
    colours = task_colours(list(runs))
    return Page(
        title=f"{' · '.join(runs)} · raymtl report",
        heading=" · ".join(runs),
        status=PageStatus(f"{len(runs)} runs", good=True),
        verdict=_mean_aucs(runs),
        notes=_notes(runs),
        sections=[_runs(runs), *_metrics(runs, colours), *_curves(runs, colours), _configuration(runs)],
    )


def _mean_aucs(runs: Runs) -> str:
    found = {name: (run.final or {}).get("mean_auc") for name, run in runs.items()}
    known = [f"{name} {number(value)}" for name, value in found.items() if value is not None]
    return f": mean AUC {', '.join(known)}" if known else ""


def _notes(runs: Runs) -> list[str]:
    """What makes the runs hard to compare, then what each one lacks."""
    found = []
    evaluated = {name: _evaluated(run) for name, run in runs.items() if run.final}
    if len(set(evaluated.values())) > 1:
        on = "; ".join(f"{name} on {rows}" for name, rows in evaluated.items())
        found.append(
            f"The metrics are measured on different rows, so their differences are not only the models': {on}."
        )
    return found + [f"{name}: {note}" for name, run in runs.items() for note in run.notes]


def _evaluated(run: Run) -> str:
    data = run.config.get("data") or {}
    path = data.get("eval_path") or data.get("path") or "unknown logs"
    path = ", ".join(path) if isinstance(path, list) else path
    return f"{count((run.final or {}).get('rows'))} rows of {run.days('eval') or 'unknown days'} in {path}"


def _runs(runs: Runs) -> Section:
    """A column per run."""
    columns = [_facts(run) for run in runs.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[Cell(name, "name"), *(Cell(column.get(name, "–")) for column in columns)] for name in names]
    return Section("Runs", "", [Grid(["", *runs], rows, narrow=len(runs) < 4)])


def _facts(run: Run) -> dict[str, str]:
    taken, _ = facts.seconds(run)
    return {
        "status": run_status(run).text,
        "trained on": run.days("train") or "–",
        "evaluated on": run.days("eval") or "–",
        **facts.settings(run),
        "rows trained": count(facts.rows_trained(run)),
        "steps": count(facts.steps(run)),
        "rows per second": short_count(facts.rows_per_second(run)),
        "time": duration(taken),
    }


def _metrics(runs: Runs, colours: Mapping[str, str]) -> list[Section]:
    found = {name: run.final for name, run in runs.items() if run.final is not None}
    if not found:
        return []
    first = next(iter(runs))
    text = (
        f"The column of differences is about the metric before it, relative to {first}. Two trainings that differ only in "
        f"`train.seed` differ too: train each run with several seeds before you call a small difference a gain. Grey: the "
        f"difference lies within the 95 % intervals of the two runs, as if each had rows of its own; on the same rows it may be "
        f"real all the same. {LEGEND}"
    )
    parts: list[Part] = [*_grids({name: metrics["tasks"] for name, metrics in found.items()}, first, colours)]
    scenarios = dict.fromkeys(scenario for metrics in found.values() for scenario in metrics.get("scenarios") or {})
    for scenario in scenarios:
        reports = {name: (metrics.get("scenarios") or {}).get(scenario, {}) for name, metrics in found.items()}
        parts.append(Collapsible(f"Scenario {scenario}", _grids(reports, first, colours)))
    return [Section("Metrics", text, parts)]


def _grids(reports: Mapping[str, Mapping[str, Report]], first: str, colours: Mapping[str, str]) -> list[Grid]:
    """The tables of metrics, by task and run, with the difference of the headline metric to the first run."""
    tasks = dict.fromkeys(task for by_task in reports.values() for task in by_task)
    places = [(task, name, by_task[task]) for task in tasks for name, by_task in reports.items() if task in by_task]
    return [_with_difference(table, reports, first, colours) for table in tables_of(places) if table.rows]


def _with_difference(
    table: MetricTable, reports: Mapping[str, Mapping[str, Report]], first: str, colours: Mapping[str, str]
) -> Grid:
    grid = metric_grid(table, dict.fromkeys((row.task for row in table.rows), ""), True, "run", colours)
    rows = []
    for row, cells in zip(table.rows, grid.rows, strict=True):
        base = reports.get(first, {}).get(row.task)
        cell = Cell("") if base is None or row.scenario == first else _difference(reports[row.scenario][row.task], base)
        rows.append([*cells[:3], cell, *cells[3:]])
    return Grid([*grid.columns[:3], "difference", *grid.columns[3:]], rows, grid.heads)


def _difference(report: Report, base: Report) -> Cell:
    """The difference of the headline metric, faint if it lies within the intervals of the two values."""
    metric = headline(report)
    value, before = report.get(metric.name), base.get(metric.name)
    if value is None or before is None:
        return Cell("–")
    if value == before:
        return Cell("=", "faint")
    text = f"{'+' if value > before else '−'}{significant(abs(value - before), 3)}"
    if metric.decimals is not None:
        text = change(value - before, metric.decimals)
    return Cell(text, "faint" if _within_intervals(metric, report, base) else "")


def _within_intervals(metric: Metric, report: Report, base: Report) -> bool:
    """Whether the 95 % interval of the difference has 0, as if each run had been evaluated on rows of its own."""
    low, high = sorted((report, base), key=lambda of: of[metric.name])
    lower, upper = (interval_of(of, metric.name) for of in (low, high))
    if lower is None or upper is None:
        return False
    # the halves that face each other
    halves = lower[1] - low[metric.name], high[metric.name] - upper[0]
    return high[metric.name] - low[metric.name] <= math.hypot(*halves)


def _curves(runs: Runs, colours: Mapping[str, str]) -> list[Section]:
    tasks = dict.fromkeys(task for run in runs.values() for task in run.tasks)
    aucs = {task: {n: finite(r.evals, "metrics", "tasks", task, "auc") for n, r in runs.items()} for task in tasks}
    aucs = {task: found for task, found in aucs.items() if max(map(len, found.values())) > 1}
    losses = {task: {n: _smoothed(finite(r.train, "losses", task)) for n, r in runs.items()} for task in tasks}
    losses = {task: found for task, found in losses.items() if any(found.values())}
    kinds = {task: section for r in runs.values() for task, section in (r.config.get("tasks") or {}).items()}
    units = {task: kind_of(kinds.get(task) or {}).loss_label for task in losses}
    parts: list[Part] = []
    if drawing := _drawn(aucs, dict.fromkeys(aucs, "AUC"), colours, "AUC of each evaluation"):
        parts += [Heading("AUC of each evaluation"), Drawing(drawing)]
    if drawing := _drawn(losses, units, colours, "Training loss"):
        text = "Mean over the observed labels of the task, smoothed; the first few steps may lie above the frame."
        parts += [Heading("Training loss"), Paragraph(text), Drawing(drawing)]
    return [Section("Curves", "", parts)] if parts else []


def _smoothed(points: list[Point]) -> list[Point]:
    few = thin(points)
    return list(zip([x for x, _ in few], smooth([y for _, y in few]), strict=True))


@styled
def _drawn(
    series: Mapping[str, Mapping[str, list[Point]]], units: Mapping[str, str], colours: Mapping[str, str], what: str
) -> str | None:
    """A panel per task with a line per run."""
    if not series:
        return None
    drawing, axes = panels(len(series), 2.5)
    size = rows_axis(axes, max(x for by_run in series.values() for points in by_run.values() for x, _ in points))
    looks: dict[str, dict[str, Any]] = {
        name: {"color": colours[name], "linestyle": _LINES[i // len(PALETTE) % 3]} for i, name in enumerate(colours)
    }
    for ax, (task, by_run) in zip(axes, series.items(), strict=True):
        for name, points in by_run.items():
            dots = "o" if what != "Training loss" or len(points) == 1 else ""
            ax.plot([x / size for x, _ in points], [y for _, y in points], marker=dots, markersize=4, **looks[name])
        ax.set_ylim(bulk([y for points in by_run.values() for _, y in points]))
        ax.set_title(task)
        ax.set_ylabel(units[task])
    legend_above(drawing, [Line2D([], [], **look) for look in looks.values()], list(looks))
    return svg(drawing, f"{what} against rows seen for {', '.join(series)}: {', '.join(looks)}")


def _configuration(runs: Runs) -> Section:
    title = "Configuration"
    configs = {name: run.config for name, run in runs.items() if run.config}
    if len(configs) < 2:
        return Section(title, "Fewer than two of the folders have a config.yaml.")
    found = [(key, values) for key, values in differences(list(configs.values())) if key != "name"]
    if not found:
        return Section(title, "The configurations are the same, apart from the name.")
    rows = [[Cell(key, "name"), *map(_value_cell, values)] for key, values in found]
    text = "Only the keys that differ; a dash is a key that the configuration does not have."
    return Section(title, text, [Grid(["key", *configs], rows, narrow=True)])


def differences(configs: Sequence[Mapping[str, Any]], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """The keys, dotted, whose values differ, and the value in each configuration as YAML; a dash where it is missing."""
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key, _MISSING) for config in configs]
        name = f"{path}{key}"
        if all(isinstance(value, Mapping) for value in values):
            yield from differences(values, f"{name}.")
        elif any(value != values[0] for value in values):
            yield name, ["–" if value is _MISSING else _as_yaml(value) for value in values]


def _as_yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _value_cell(text: str) -> Cell:
    return Cell(text, "part" if len(text) < _SHORT else "why")
