"""The report of `raymtl check` for a terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from raymtl.data.validation.report import CheckReport, ColumnReport, PartReport
from raymtl.telemetry.output import FoldedTable
from raymtl.words import count_of, visible

_BARS = "▁▂▃▄▅▆▇█"
_LISTS = ("ids", "map")
_LENGTHS = ("mean length", "longest", "empty")
_MOST_SENTENCES = 20


def render(report: CheckReport) -> list[RenderableType]:
    """Tables of each part, then notes, warnings and problems, and the verdict last."""
    shown: list[RenderableType] = []
    for name, part in report.parts.items():
        shown += _part(name, part)
    shown += _sentences("note", "dim", report.notes)
    shown += _sentences("warning", "yellow", report.warnings)
    shown += _sentences("problem", "red", report.problems)
    speed = f"{count_of(report.rows, 'row')} in {report.seconds:.1f} s"
    if report.problems:
        shown.append(
            Text(f"The data violates its contract: {_count(report.problems, 'problem')} ({speed}).", style="bold red")
        )
    else:
        shown.append(
            Text(f"The data fulfills its contract, {_count(report.warnings, 'warning')} ({speed}).", style="bold green")
        )
    return shown


def _part(name: str, part: PartReport) -> Iterable[RenderableType]:
    size = f"{part.bytes / 2**30:.2f} GiB" if part.bytes >= 2**30 else f"{part.bytes / 2**20:.1f} MiB"
    yield Text.assemble(
        (f"{name} ", "bold"),
        f"{part.path}, {part.days}: {count_of(part.rows, 'row')}, {count_of(part.files, 'file')} ({size}), "
        f"{count_of(part.row_groups, 'row group')}, "
        f"{count_of(part.units, 'unit')} of data.unit_rows",
    )
    ids = {n: c for n, c in part.features.items() if c.kind in ("id", *_LISTS)}
    dense = {n: c for n, c in part.features.items() if c.kind in ("number", "numbers", "vector")}
    if ids:
        yield _ids(ids, part)
    if dense or part.others:
        yield _numbers({**dense, **part.others})
    if part.tasks:
        yield _labels(part)
        if any(t.by_scenario for t in part.tasks.values()):
            yield _scenarios(part)


def _table(*columns: str) -> Table:
    table = FoldedTable(box=box.SIMPLE, pad_edge=False)
    for n, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if n == 0 else "right", overflow="fold")
    return table


def _ids(features: dict[str, ColumnReport], part: PartReport) -> Table:
    lists = any(c.kind in _LISTS for c in features.values())
    table = _table("ID feature", "null", "≈ distinct", "table rows", "share a row", *(_LENGTHS if lists else ()))
    for name, column in features.items():
        looked_up = part.tables.get(column.table or "")
        rows = f"{looked_up.rows:,}" if looked_up else ""
        shared = "" if looked_up is None or looked_up.shared is None else _share(looked_up.shared)
        lengths: tuple[str, ...] = ()
        if column.kind in _LISTS:
            empty = (column.empty or 0) / max(1, column.rows)
            lengths = (f"{column.mean_length or 0:.1f}", f"{column.longest or 0:,}", _share(empty))
        distinct = "" if column.distinct is None else f"{column.distinct:,}"
        table.add_row(Text(name), _nulls(column), distinct, rows, shared, *lengths)
    return table


def _numbers(columns: dict[str, ColumnReport]) -> Table:
    clips = any(c.clipped is not None for c in columns.values())
    table = _table(
        "number", "null", "not finite", "min", "mean", "max", "std", *(("clipped",) if clips else ()), "≈ distinct"
    )
    for name, column in columns.items():
        broken = f"{column.not_finite:,}" if column.not_finite else ""
        distinct = "" if column.distinct is None else f"{column.distinct:,}"
        values = [_value(v) for v in (column.min, column.mean, column.max, column.std)]
        clipped = ("" if column.clipped is None else _share(column.clipped / max(1, column.numbers)),) if clips else ()
        table.add_row(Text(name), _nulls(column), broken, *values, *clipped, distinct)
    return table


def _labels(part: PartReport) -> Table:
    table = _table("task", "observed", "mean", "lowest day", "highest day", "day by day")
    for name, task in part.tasks.items():
        days = [r.mean for r in task.by_day.values()]
        known = [d for d in days if d is not None]
        low, high = (_value(min(known)), _value(max(known))) if known else ("", "")
        table.add_row(Text(name), _share(task.all.observed_share), _value(task.all.mean), low, high, _sparkline(days))
    return table


def _scenarios(part: PartReport) -> Table:
    names = list(next(iter(part.tasks.values())).by_scenario)
    table = _table("label mean by scenario", *map(visible, names))
    first = next(iter(part.tasks.values())).by_scenario
    table.add_row(Text("rows"), *(f"{first[n].rows:,}" for n in names))
    for name, task in part.tasks.items():
        table.add_row(Text(name), *(_value(task.by_scenario[n].mean) for n in names))
    return table


def _sparkline(values: list[float | None]) -> str:
    """One bar per day from 0 to the highest day; a dot for a day without observed labels."""
    top = max((v for v in values if v is not None), default=0.0)
    return "".join(
        "·" if v is None else _BARS[max(0, min(7, int(8 * v / top)))] if top > 0 else _BARS[0] for v in values
    )


def _value(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def _share(share: float) -> str:
    return "0" if share == 0 else f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _nulls(column: ColumnReport) -> str:
    return _share(column.nulls / max(1, column.rows)) if column.nulls else ""


def _sentences(kind: str, style: str, sentences: list[str]) -> Iterable[RenderableType]:
    for sentence in sentences[:_MOST_SENTENCES]:
        yield Text.assemble((f"{kind}: ", f"bold {style}"), (sentence, "dim" if style == "dim" else ""))
    if len(sentences) > _MOST_SENTENCES:
        yield Text(f"  … and {len(sentences) - _MOST_SENTENCES} more {kind}s (--json has them)", style="dim")


def _count(items: list[str], noun: str) -> str:
    return f"{len(items) or 'no'} {noun}" + ("" if len(items) == 1 else "s")
