"""The report of the last days: data drift, refused days, and a line per day."""

import datetime as dt
from collections.abc import Sequence
from statistics import mean

from raymtl.config.metrics import METRICS
from raymtl.config.task_kinds import Values
from raymtl.daily.record import FOLDER, STATES, Record, Status
from raymtl.daily.reports.day import DAYS
from raymtl.daily.reports.day import NAME as DAY_PAGE
from raymtl.daily.reports.gains import mean_gains_section
from raymtl.daily.reports.series import (
    Series,
    by_date,
    by_name,
    estimate_in,
    ids,
    in_stats,
    next_day,
    number_in,
    only,
    ranked,
    task_names,
    within,
)
from raymtl.daily.reports.served import served, was_published
from raymtl.daily.reports.table import GAINS_TEXT, day_columns, day_lines, lead_and_rest
from raymtl.reports.days import (
    Estimates,
    Frame,
    Span,
    dots_by_day,
    line_charts,
    small_multiples,
    stacked_bars,
    time_unit,
    version_sizes,
)
from raymtl.reports.facts import auc_remark, settings_line
from raymtl.reports.page import (
    Cell,
    Drawing,
    Grid,
    Heading,
    Key,
    Kind,
    Page,
    PageStatus,
    Paragraph,
    Part,
    Section,
    render_page,
)
from raymtl.reports.plots import count_unit
from raymtl.reports.style import MUTED, number, other_colours, short_count, short_day, significant, task_colours
from raymtl.reports.tables import headline, kind_of
from raymtl.storage.object_store import Store
from raymtl.words import gib, visible

NAME = "index.html"

_KINDS: dict[Status, Kind] = {
    "published": "good",
    "rolled back": "look",
    "refused": "look",
    "not ready": "look",
    "broken": "look",
    "running": "faint",
}
_MARKS = "Dashed amber lines are refused days; a day without a value is a gap."


def write_index(store: Store, records: Sequence[Record]) -> str:
    """Write the page of the last 30 days and return its path or URL; older records are ignored.

    Raises:
        StorageError: the page cannot be written.
    """
    name = f"{FOLDER}/{NAME}"
    store.write(name, render_page(index_page(store.path, *served(store, records))))
    return store.path_of(name)


def index_page(place: str, records: Sequence[Record], current: str | None) -> Page:
    """The page; `place` is the store as a user writes it, `current` the version that it serves."""
    records = by_date(records)
    if not records:
        return Page(
            "raymtl daily", "Daily job", PageStatus("No day yet", good=False), ": none has started yet.", [place]
        )
    records = [r for r in records if r.date > records[-1].date - dt.timedelta(days=DAYS)]
    span = Span(records[0].date, records[-1].date, [r.date for r in records if r.status == "refused"])
    lead, rest = lead_and_rest(records[-1])
    return Page(
        title="days · raymtl daily",
        heading="Daily job",
        status=PageStatus(f"{records[-1].date}: {lead}", records[-1].status == "published"),
        verdict=f": {rest}",
        meta=[*_settings(records), f"{span.first} to {span.last} · {place}", f"current version: {current or 'none'}"],
        keys=_keys(records),
        sections=[
            _next_day(records, span),
            mean_gains_section(records, task_colours(task_names(records)), DAYS),
            _days(records),
            _data(records, span),
            _ids(records, span),
            _time(records, span),
            _bytes(records, span),
        ],
    )


def _settings(records: list[Record]) -> list[str]:
    """What the newest day is trained with."""
    return [settings_line(record.settings) for record in reversed(records) if record.settings][:1]


def _keys(records: list[Record]) -> list[Key]:
    published = [r for r in records if r.status == "published"]
    refused = [r for r in records if r.status == "refused"]
    rolled_back = [r for r in records if r.status == "rolled back"]
    ended = len(published) + len(refused) + len(rolled_back)
    rows = [r.trained.rows for r in published if r.trained]
    return [
        _newest_auc(records),
        Key("published", str(len(published)), f"last {published[-1].date}" if published else "none yet"),
        Key("refused", str(len(refused)), f"last {refused[-1].date}" if refused else "none"),
        *([Key("rolled back", str(len(rolled_back)), f"last {rolled_back[-1].date}")] if rolled_back else []),
        Key("unfinished", str(len(records) - ended), "not ready, broken or running"),
        Key("rows trained", short_count(sum(rows)), "by the published days"),
        Key("written", gib(sum(r.written.bytes for r in published if r.written)), "by the published days"),
    ]


def _newest_auc(records: list[Record]) -> Key:
    name = "next-day AUC"
    for record in reversed(records):
        if found := ranked(record):
            value = mean(report["auc"] for report in found.values())
            return Key(name, number(value), f"{short_day(record.date)}: {auc_remark(found)}")
    return Key(name, "–", "nothing was scored")


def _section(title: str, text: str, drawings: Sequence[tuple[str, str | None]], missing: str) -> Section:
    """Plots under their headings; if there are none, the sentence `missing`."""
    parts: list[Part] = []
    for heading, drawing in drawings:
        if drawing:
            parts += [Heading(heading), Drawing(drawing)] if heading else [Drawing(drawing)]
    return Section(title, text, parts) if parts else Section(title, missing)


def _next_day(records: list[Record], span: Span) -> Section:
    colours = task_colours(task_names(records))

    def read(key: str) -> Estimates:
        found = next_day(records, lambda report: estimate_in(report, METRICS[key]))
        return within(found, span.first, span.last)

    errors = next_day(records, lambda r: estimate_in(r, headline(r)) if issubclass(kind_of(r), Values) else None)
    best = within(next_day(records, lambda report: number_in(report, "truth_auc")), span.first, span.last)
    drawn = "Next-day {} of every task by day, with its interval"
    auc = dots_by_day(read("auc"), colours, span, "AUC", drawn.format("AUC"), 0.01, best)
    ne = dots_by_day(read("ne"), colours, span, "NE", drawn.format("NE"), 0.02)
    error = dots_by_day(within(errors, span.first, span.last), colours, span, "error", drawn.format("error"), 0.05)
    calibration = dots_by_day(
        read("calibration"), colours, span, "Σp / Σy", drawn.format("calibration"), 0.05, target=1.0
    )
    text = (
        f"Every day's rows, scored by the newest version before any training on them; a task with delayed labels is shown at the "
        f"day of its rows. Bars are 95 % intervals. The days have different rows, so two dots do not tell whether the model "
        f"became better: the section Gain over older versions shows its progress. {_MARKS}"
    )
    ticks = " (ticks: the best reachable)" if any(best.values()) else ""
    drawings = [
        (f"AUC{ticks}", auc),
        ("Normalised entropy, lower is better", ne),
        ("Deviance or mean squared error, lower is better", error),
        ("Calibration, 1 is right", calibration),
    ]
    return _section("Next-day metrics", text, drawings, "No version has been scored on a next day yet.")


def _days(records: list[Record]) -> Section:
    rows = []
    for line in reversed(day_lines(records)):
        status = line.record.status
        rows.append(
            [
                Cell(str(line.record.date), "name", link=f"{line.record.date}/{DAY_PAGE}"),
                Cell(status, _KINDS[status]),
                Cell(line.version, "" if status == "published" else "faint"),
                Cell(line.rows),
                *(Cell(value, note=by) for value, by in line.scores),
                Cell(line.new_ids),
                Cell(line.time),
                Cell(line.size),
            ]
        )
    columns = ["day", "verdict", "version", "rows", *day_columns(records), "new IDs", "time", "size"]
    text = (
        f"Newest first; {GAINS_TEXT}. New IDs is the highest share of any table. A version of a day that was not published is a "
        "candidate."
    )
    return Section("Days", text, [Grid(columns, rows, tight=True)])


def _data(records: list[Record], span: Span) -> Section:
    tasks = task_colours(task_names(records))
    size, unit = count_unit(max((r.stats.rows for r in records if r.stats), default=0))
    rows = by_name(records, in_stats(lambda f: {"Rows": f.rows / size}))
    labels = by_name(records, in_stats(lambda f: f.labels))
    scenarios = by_name(records, in_stats(lambda f: {visible(name): share for name, share in f.scenarios.items()}))
    shown = _tables(records)
    new_ids = only(by_name(records, in_stats(lambda f: f.new_ids)), shown)
    mix = stacked_bars(
        scenarios, other_colours(list(scenarios)), span, "of the rows", "Scenario mix by day", percent=True
    )
    both = [
        Frame("Rows", rows, f"{unit}rows"),
        Frame("New IDs", new_ids, "of the lookups of a table", "share"),
    ]
    colours = {"Rows": MUTED[-2], **other_colours(shown)}
    drawings = [
        ("", line_charts(both, colours, span, "Rows, and the share of new IDs of every table, by day")),
        ("Label rates", small_multiples(labels, tasks, span, "mean label", "Label rates by day", significant, 0.2)),
        ("Scenarios", mix),
    ]
    return _section("Data", f"Statistics of the logs. {_MARKS}", drawings, "No logs have been checked yet.")


def _tables(records: list[Record]) -> list[str]:
    """The tables to show, with one colour each on the page: more lines in one plot are indistinguishable."""
    found = by_name(records, ids("admitted")) or by_name(records, in_stats(lambda f: f.new_ids))
    ranked = sorted(found, key=lambda table: -max(found[table].values()))[: len(MUTED)]
    return [table for table in found if table in ranked]


def _ids(records: list[Record], span: Span) -> Section:
    found = {what: by_name(records, ids(what)) for what in ("admitted", "evicted", "no_room", "unknown_share")}
    names = _tables(records)
    colours = other_colours(names)
    shown = {what: only(series, names) for what, series in found.items()}
    for what in ("evicted", "no_room"):  # most tables never evict and are never full
        shown[what] = {name: values for name, values in shown[what].items() if any(values.values())}

    wanted = [
        Frame("Admitted", shown["admitted"], "IDs", "count"),
        Frame("Evicted", shown["evicted"], "IDs", "count"),
        Frame("Unknown", shown["unknown_share"], "of the lookups of a table", "share"),
        Frame("Rejected: table full", shown["no_room"], "IDs", "count"),
    ]
    drawings = [("", line_charts(wanted, colours, span, "IDs of every table by day"))]
    section = _section(
        "IDs",
        f"The result of admission, by table. {_MARKS}",
        drawings,
        "No table has admitted or evicted IDs yet.",
    )
    hidden = len(found["admitted"]) - len(names)
    more = (
        [Paragraph(f"{hidden} more tables, which admitted fewer IDs, are in the reports of the days.")]
        if hidden > 0
        else []
    )
    return Section(section.title, section.text, [*section.parts, *more])


def _time(records: list[Record], span: Span) -> Section:
    seconds = by_name(records, lambda record: dict(record.seconds))
    longest = max((sum(record.seconds.values()) for record in records), default=0.0)
    size, unit = time_unit(longest)
    ordered: Series = {
        state: {day: v / size for day, v in seconds[state].items()} for state in STATES if state in seconds
    }
    drawing = stacked_bars(ordered, other_colours(list(STATES)), span, unit, "Time in each state by day")
    return _section(
        "Time", "How long each state took, over all starts.", [("", drawing)], "No state has been timed yet."
    )


def _bytes(records: list[Record], span: Span) -> Section:
    published = [r for r in records if was_published(r) and r.written]
    kinds: Series = {"full": {}, "delta": {}}
    for record in published:
        if record.written:
            kinds[record.written.kind][record.date] = float(record.written.bytes)
    drawing = version_sizes(kinds, other_colours(list(kinds)), span, "Bytes of each version by day", gib)
    text = (
        "What each published version wrote: a full version (square), or the rows that changed since its base (circle)."
    )
    return _section("Size of the versions", text, [("", drawing)], "No version has been published yet.")
