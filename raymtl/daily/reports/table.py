"""The verdict of a day in one sentence, and the next-day table: a line per day, on the terminal and in the report of all days."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from raymtl.daily.gate import check_label
from raymtl.daily.record import Check, Record, Written
from raymtl.daily.reports.gains import gains_shown
from raymtl.daily.reports.series import by_date, score_of, scored, task_names
from raymtl.reports.style import count, duration, percent, significant, task_colours
from raymtl.reports.tables import with_interval
from raymtl.telemetry.output import FoldedTable
from raymtl.words import count_of, gib

GAINS_TEXT = (
    "with a sign: the gain of the day's version over that of daily.compare_days_ago days ago, or over the first, on the same "
    "held-out rows"
)

_STYLES = {
    "published": "green",
    "rolled back": "bold yellow",
    "refused": "bold yellow",
    "not ready": "yellow",
    "broken": "bold red",
    "running": "dim",
}


@dataclass(frozen=True)
class Line:
    """One day."""

    record: Record
    version: str
    rows: str
    scores: list[tuple[str, str]]
    """By task: the metric, and the gain over an older version."""
    new_ids: str
    """The highest share of any table."""
    time: str
    size: str


def verdict(record: Record) -> str:
    """How the day ended, in one sentence."""
    return ": ".join(lead_and_rest(record))


def lead_and_rest(record: Record) -> tuple[str, str]:
    """The verdict in two parts: the word that matters, and what it means."""
    reason, lead = _reason(record), record.status[0].upper() + record.status[1:]
    match record.status:
        case "published":
            first = f"follows {record.parent}" if record.parent else "is the first version"
            size = f", {_size(record.written)}" if record.written else ""
            parts = [f"version {record.version or 'without a name'} {first}{size}", *_checks(record), reason]
        case "rolled back":
            parts = [reason]
        case "refused":
            stays = f"{record.parent} stays the current version" if record.parent else "there is still no version"
            parts = [f"{stays}, because {_failed(record) or reason or 'the reason was not recorded'}"]
        case "not ready":
            parts = [reason or "the day's logs are not complete yet; rerun the same command later"]
        case "broken":
            parts = [f"in `{record.state}`, {reason or 'the reason was not recorded'}"]
        case _:
            lead = "Stopped" if reason else lead
            parts = [
                f"in `{record.state}`, {reason}; rerun the same command to resume" if reason else f"in `{record.state}`"
            ]
    return lead, "; ".join(part for part in parts if part) + "."


def _reason(record: Record) -> str:
    """The reason in one line, without the date and the status, which are shown beside it."""
    words = " ".join(record.reason.split()).rstrip(".")
    return words.removeprefix(f"{record.date}").removeprefix(f" is {record.status}").removeprefix(":").strip()


def _size(written: Written) -> str:
    return f"full, {gib(written.bytes)}" if written.kind == "full" else f"a delta of {gib(written.bytes)}"


def _checks(record: Record) -> list[str]:
    if record.gate is None:
        return []
    passed, open_ = (sum(check.passed is which for check in record.gate.checks) for which in (True, None))
    words = f"{count_of(passed, 'check')} passed"
    return [f"{words}, {open_} not judged" if open_ else words]


def check_names(checks: Sequence[Check]) -> str:
    """The names of checks, by task: buy AUC, NE; whole model order."""
    found: dict[str, list[str]] = {}
    for check in checks:
        found.setdefault(check.task or "whole model", []).append(check_label(check.name))
    return "; ".join(f"{task} {', '.join(names)}" for task, names in found.items())


def _failed(record: Record) -> str:
    """The failed checks of the gate."""
    failed = [check for check in record.gate.checks if check.passed is False] if record.gate else []
    return ", ".join(map(_check_text, failed))


def _check_text(check: Check) -> str:
    what = check_label(check.name)
    subject = f"the {what} of {check.task}" if check.task else what
    if check.candidate is None or check.name == "not finite":
        return f"{subject}: {check.note}"
    before = "" if check.base is None else f", before {significant(check.base)}"
    doubt = f"; {check.note}" if check.note else ""
    return f"{subject} is {significant(check.candidate)} (allowed {check.limit}{before}){doubt}"


def day_columns(records: Sequence[Record]) -> list[str]:
    """One column header per task: its metric, and for delayed labels how many days before the record's day its rows are."""
    heads = []
    for task in task_names(records):
        found = [(record, *scored(record)[task]) for record in by_date(records) if task in scored(record)]
        if not found:
            heads.append(task)
            continue
        record, entry, report = found[-1]
        late = (record.date - entry.day).days
        heads.append(
            f"{task} {score_of(report)[0].label}" + (f", {late} day{'s' if late > 1 else ''} before" if late else "")
        )
    return heads


def day_lines(records: Sequence[Record]) -> list[Line]:
    """A line per record, the oldest first."""
    tasks = task_names(records)
    lines = []
    for record in by_date(records):
        scores, found, gains = [], scored(record), gains_shown(record)
        for task in tasks:
            metric = score_of(found[task][1])[0] if task in found else None
            text = "–" if metric is None else with_interval(metric, found[task][1])
            scores.append((text, gains[task].text() if task in gains else ""))
        stats, written = record.stats, record.written
        lines.append(
            Line(
                record=record,
                version=record.version or "–",
                rows=count(stats.rows if stats else None),
                scores=scores,
                new_ids=percent(max(stats.new_ids.values()) if stats and stats.new_ids else None),
                time=duration(sum(record.seconds.values()) if record.seconds else None),
                size=f"{gib(written.bytes)} {written.kind}" if written else "–",
            )
        )
    return lines


def day_table(records: Sequence[Record]) -> Table:
    """The next-day table for the terminal, oldest day first."""
    table = FoldedTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("date")
    table.add_column("verdict")
    table.add_column("version")
    table.add_column("rows", justify="right")
    colours = task_colours(task_names(records))
    for head, colour in zip(day_columns(records), colours.values(), strict=True):
        table.add_column(Text(head.replace(", ", "\n"), style=colour), justify="right")
    for head in ("new IDs", "time", "size"):
        table.add_column(head, justify="right")
    for line in day_lines(records):
        status = line.record.status
        table.add_row(
            str(line.record.date),
            Text(status, style=_STYLES[status]),
            Text(line.version, style="" if status == "published" else "dim"),
            line.rows,
            *(Text.assemble(value, (f" {by}" if by else "", "dim")) for value, by in line.scores),
            line.new_ids,
            line.time,
            line.size,
        )
    table.caption = Text(
        f"scored before any training on the rows; {GAINS_TEXT}; new IDs: the highest share of any table",
        style="dim",
    )
    return table
