"""The report of one day: the verdict first, then the evidence."""

import datetime as dt
from collections.abc import Sequence
from statistics import mean

from raymtl.daily.gate import check_label, check_scale
from raymtl.daily.record import STATES, Check, GateResult, NextDay, Record, folder
from raymtl.daily.reports.data_part import data_parts
from raymtl.daily.reports.gains import FIRST, gains_section, gains_shown
from raymtl.daily.reports.series import by_date, final_in, ids_of, metrics_in, ranked, task_names
from raymtl.daily.reports.served import served, was_published
from raymtl.daily.reports.table import check_names, lead_and_rest
from raymtl.explaining.fall_page import fall_section
from raymtl.explaining.wording import found_causes
from raymtl.reports import slices
from raymtl.reports.chance import LEGEND
from raymtl.reports.days import horizontal_bars
from raymtl.reports.facts import auc_remark, settings_line
from raymtl.reports.page import (
    OPEN_ROWS,
    Cell,
    Collapsible,
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
    metric_grid,
    render_page,
)
from raymtl.reports.recalibration import EXPLAINED, recalibration_grid
from raymtl.reports.scores import LEGEND as SCORES_LEGEND
from raymtl.reports.scores import score_grid
from raymtl.reports.style import (
    change,
    count,
    duration,
    number,
    other_colours,
    percent,
    short_count,
    significant,
    task_colours,
)
from raymtl.reports.tables import metric_tables
from raymtl.storage.object_store import Store
from raymtl.words import count_of, gib

NAME = "report.html"
DAYS = 30
"""Calendar days over which means are taken, and that the page of all days shows."""

_GATE_NAMES = 3
"""Checks that the tile of the gate names."""
_ADMISSION = ("known", "admitted", "evicted", "below", "outdated", "no_room")
_ADMISSION_HEADS = {"below": "too rare", "no_room": "table full"}


def write_day_report(store: Store, record: Record, earlier: Sequence[Record]) -> str:
    """Write the report of a day and return its path or URL.

    Args:
        earlier: records of earlier days, for the comparison; in any order, may be empty.

    Raises:
        StorageError: the page cannot be written.
    """
    name = f"{folder(record.date)}/{NAME}"
    record, *earlier = served(store, [record, *earlier]).records
    store.write(name, render_page(day_page(store.path, record, earlier)))
    return store.path_of(name)


def day_page(place: str, record: Record, earlier: Sequence[Record]) -> Page:
    """The page; `place` is the store as a user writes it."""
    earlier = [other for other in by_date(earlier) if other.date < record.date]
    colours = task_colours(task_names([*earlier, record]))
    lead, rest = lead_and_rest(record)
    links = [("all days", "../index.html")]
    if earlier:
        links.insert(0, (f"← {earlier[-1].date}", f"../{earlier[-1].date}/{NAME}"))
    return Page(
        title=f"{record.date} · {record.status} · raymtl daily",
        heading=str(record.date),
        status=PageStatus(lead, record.status == "published"),
        verdict=f": {rest}",
        meta=_meta(place, record),
        links=links,
        notes=[*record.notes, *([found_causes(record.fall)] if record.fall else [])],
        keys=_keys(record),
        sections=_sections(record, earlier, colours),
    )


def _sections(record: Record, earlier: Sequence[Record], colours: dict[str, str]) -> list[Section]:
    """The sections, and last a sentence on those that are missing."""
    found = [
        _next_day(record, colours),
        fall_section(record.fall, colours, record.fall.get("version", "")) if record.fall else None,
        gains_section(record, _last_days(record, earlier), colours, DAYS),
        _gate(record, colours),
        _data(record, earlier, colours),
        _ids(record),
        _trained(record),
        _time(record),
        _version(record),
    ]
    sections = [part for part in found if isinstance(part, Section)]
    missing = [part for part in found if isinstance(part, str)]
    if missing:
        still = record.status == "running"
        where = (
            f"The day is still in `{record.state}`" if still else f"The day ended in `{record.state}`, {record.status}"
        )
        sections.append(Section("Missing sections", f"{where}: {', '.join(missing)}."))
    return sections


def _meta(place: str, record: Record) -> list[str]:
    version = record.version or "no version"
    if record.version and not was_published(record):
        version += " (candidate)"
    ended = f" to {record.ended:%Y-%m-%d %H:%M:%S} UTC" if record.ended else " UTC, not ended"
    attempt = f", attempt {record.attempt}" if record.attempt > 1 else ""
    return [
        *([settings_line(record.settings)] if record.settings else []),
        f"{record.parent or 'nothing'} → {version} · config {record.config_hash[:12]}",
        f"{record.started:%Y-%m-%d %H:%M:%S}{ended}{attempt} · {place}",
    ]


def _keys(record: Record) -> list[Key]:
    stats, gate, written, trained = record.stats, record.gate, record.written, record.trained
    used = f"{short_count(trained.rows)} trained on" if trained else "none trained on"
    keys = [
        _mean_auc(record),
        *_mean_gain(record),
        Key("rows of the day", short_count(stats.rows if stats else None), used),
    ]
    keys.append(_gate_key(gate) if gate is not None else Key("gate", "–", "not reached"))
    if stats and stats.new_ids:
        table = max(stats.new_ids, key=lambda name: stats.new_ids[name])
        keys.append(Key("new IDs", percent(stats.new_ids[table]), f"of the lookups of {table}"))
    keys.append(
        Key("time", duration(sum(record.seconds.values()) if record.seconds else None), "of the job, in all states")
    )
    if written:
        keys.append(Key("size", gib(written.bytes), "a full version" if written.kind == "full" else "a delta"))
    return keys


def _gate_key(gate: GateResult) -> Key:
    """How many checks passed, and the first of those that failed, or else were not judged, with a link to all."""
    failed, open_ = ([check for check in gate.checks if check.passed is which] for which in (False, None))
    named, word = (failed, "failed") if failed else (open_, "not judged")
    remark = f"checks passed{f', {len(open_)} not judged' if failed and open_ else ''}"
    remark += f"; {word}: {check_names(named[:_GATE_NAMES])}" if named else ""
    more = f"and {len(named) - _GATE_NAMES} more" if len(named) > _GATE_NAMES else ""
    value = f"{len(gate.checks) - len(failed) - len(open_)} of {len(gate.checks)}"
    return Key("gate", value, remark, more, "#gate")


def _mean_auc(record: Record) -> Key:
    found = ranked(record)
    if not found:
        return Key("next-day AUC", "–", "nothing was scored")
    return Key("next-day AUC", number(mean(report["auc"] for report in found.values())), auc_remark(found))


def _mean_gain(record: Record) -> list[Key]:
    gains = [gain for gain in gains_shown(record).values() if gain.metric.name == "auc"]
    if not gains or record.gate is None:
        return []
    over = "the first version" if gains[0].over == FIRST else f"the version of {gains[0].over}"
    tasks = f"mean of {count_of(len(gains), 'task')}" if len(gains) > 1 else gains[0].task
    remark = f"over {over}, {tasks}, same {short_count(record.gate.holdout_rows)} held-out rows"
    return [Key("gain in AUC", change(mean(gain.value for gain in gains)), remark)]


def _last_days(record: Record, earlier: Sequence[Record]) -> list[Record]:
    return [other for other in earlier if other.date > record.date - dt.timedelta(days=DAYS)]


def _next_day(record: Record, colours: dict[str, str]) -> Section | str:
    title = "Next day"
    if not record.next_day:
        if record.parent is None:
            return Section(title, "There was no earlier version that could be scored on this day.")
        return "no version was scored on its rows"
    parts: list[Part] = []
    merged: dict = {"tasks": {}, "scenarios": {}}
    for entry in sorted(record.next_day, key=lambda entry: entry.day, reverse=True):
        found = final_in(entry)
        parts += [Heading(_about(record, entry)), *_entry_parts(found, colours), *_recalibration(found, colours)]
        merged["tasks"] = found["tasks"] | merged["tasks"]
        for name, reports in found["scenarios"].items():
            merged["scenarios"][name] = reports | merged["scenarios"].get(name, {})
    vague = slices.vague_scenarios(merged, list(colours))
    if drawing := slices.scenario_auc(merged, list(colours)):
        said = (
            "The line across the end of a bar is the 95 % interval, and the number beside a scenario counts its positives. "
            f"{vague}"
        )
        parts += [Heading("AUC by scenario, from 0.5, which is chance"), Paragraph(said.strip()), Drawing(drawing)]
    if drawing := slices.calibration(merged, list(colours)):
        parts += [Heading("Mean label against mean prediction, in buckets of rows by prediction"), Drawing(drawing)]
    text = (
        "Metrics of a version on rows that it has not seen: it is scored before any training on them. NE is the log "
        "loss relative to that of a constant, lower is better. Calibration is the sum of predictions over the sum of labels, "
        f"1 is right. {LEGEND}"
    )
    return Section(title, text, parts)


def _about(record: Record, entry: NextDay) -> str:
    late = (record.date - entry.day).days
    when = "the day's own rows" if not late else f"rows of {entry.day}, whose labels are final now"
    return f"{when[0].upper()}{when[1:]}: {count(entry.rows)} scored by version {entry.version}"


def _entry_parts(found: dict, colours: dict[str, str]) -> list[Part]:
    if not found["tasks"]:
        return [Paragraph("No task has metrics: no label was observed.")]
    tables = metric_tables(found)
    scores = score_grid(found)
    fused: list[Part] = [] if scores is None else [Paragraph(SCORES_LEGEND), scores]
    grids = [metric_grid(table, colours, parts=bool(found["scenarios"])) for table in tables]
    if sum(len(table.rows) for table in tables) <= OPEN_ROWS:
        return [*grids, *fused]
    short = [metric_grid(table, colours, parts=False) for table in metric_tables(found, scenarios=False)]
    return [*short, Collapsible("All numbers by task and scenario", grids), *fused]


def _gate(record: Record, colours: dict[str, str]) -> Section | str:
    gate = record.gate
    if gate is None:
        return "the gate judged no candidate"
    failed = [check for check in gate.checks if check.passed is False]
    others = [check for check in gate.checks if check.passed is not False]
    open_ = sum(check.passed is None for check in gate.checks)
    columns = {"change": any(check.change for check in gate.checks), "note": any(check.note for check in gate.checks)}
    said = (
        f"The candidate {'may' if gate.passed else 'must not'} be published: of {len(gate.checks)} checks "
        f"{len(failed) or 'none'} failed{f' and {open_} could not be judged' if open_ else ''}. "
        f"{f'It was compared with {record.parent}' if record.parent else 'As the first version it was scored alone,'} on "
        f"{_held_out_text(gate)}.{' Change: the 95 % interval of candidate − base.' if columns['change'] else ''}"
    )
    heads = ["task", "check", "verdict", "candidate", "base", "change", "allowed", "note"]
    kept = [n for n, head in enumerate(heads) if columns.get(head, True)]
    rows = [_check_cells(check, colours) for check in failed + others]
    grid = Grid([heads[n] for n in kept], [[row[n] for n in kept] for row in rows])
    recalibration = _recalibration(metrics_in(gate.candidate), colours)
    return Section("Gate", said, [grid, *recalibration, *_held_out(gate, colours)])


def _recalibration(found: dict, colours: dict[str, str]) -> list[Part]:
    """What recalibration changes on the rows of some metrics."""
    known = {name: entry for name, entry in (found.get("calibration") or {}).items() if name in found["tasks"]}
    grid = recalibration_grid(known, colours)
    return [Heading("Recalibration"), Paragraph(EXPLAINED), grid] if grid.rows else []


def _check_cells(check: Check, colours: dict[str, str]) -> list[Cell]:
    look: Kind = "look" if check.passed is False else ""
    word = {True: Cell("passed", "good"), False: Cell("failed", "look"), None: Cell("not judged", "faint")}[
        check.passed
    ]
    show = {"count": count, "ratio": number, "significant": significant}[check_scale(check.name)]
    return [
        Cell(check.task, "name", colours.get(check.task, "gray")) if check.task else Cell("whole model", "name"),
        Cell(check_label(check.name), "part"),
        word,
        Cell(show(check.candidate), look),
        Cell(show(check.base)),
        Cell(_change_text(check)),
        Cell(check.limit or "–", "part"),
        Cell(check.note, "why"),
    ]


def _held_out_text(gate: GateResult) -> str:
    """How many rows and users judged the candidate."""
    users = [report.get("groups") or 0 for report in metrics_in(gate.candidate)["tasks"].values()]
    known = f" of {count_of(max(users), 'held-out user')}" if any(users) else " of held-out users"
    return count_of(gate.holdout_rows, "row") + known


def _change_text(check: Check) -> str:
    """The change from the previous version with its 95 % interval."""
    if check.base is None or check.candidate is None or check.change is None:
        return "–"
    low, high = (f"{end:+.2g}".replace("-", "−") for end in check.change)
    return f"{low} to {high}"


def _held_out(gate: GateResult, colours: dict[str, str]) -> list[Part]:
    parts: list[Part] = []
    for who, section in (("Candidate", gate.candidate), ("Previous version", gate.base)):
        found = metrics_in(section or {})
        if found["tasks"]:
            parts_too = bool(found["scenarios"])
            parts += [Heading(who), *(metric_grid(table, colours, parts_too) for table in metric_tables(found))]
            parts += [scores] if (scores := score_grid(found)) is not None else []
    return [Collapsible("All numbers on the held-out rows", [Paragraph(LEGEND), *parts])] if parts else []


def _data(record: Record, earlier: Sequence[Record], colours: dict[str, str]) -> Section | str:
    if record.stats is None:
        return "the logs have no statistics"
    stats = record.stats
    files = f"{count_of(stats.rows, 'row')} in {count_of(stats.files, 'file')}."
    return Section("Data", files, data_parts(stats, earlier, colours))


def _ids(record: Record) -> Section | str:
    title = "IDs"
    if record.trained is None:
        return "no IDs were admitted or evicted"
    if not record.trained.ids:
        return Section(title, "No table keeps a map of its IDs (`id_space: map`), so none are admitted or evicted.")
    text = (
        "The result of admission for the IDs of the day, by table. Too rare: fewer than admit_count lookups. Outdated: last seen "
        "too long ago. Table full: no free row. Unknown: the share of lookups that go to the one row for IDs without a row."
    )
    rows = []
    for table, entry in record.trained.ids.items():
        cells = [Cell(table, "name")]
        for what in _ADMISSION:
            found = ids_of(entry, what)
            cells.append(Cell(count(found), "look" if what == "no_room" and found else ""))
        rows.append([*cells, Cell(percent(entry.get("unknown_share"), 2))])
    return Section(
        title,
        text,
        [Grid(("table", *(_ADMISSION_HEADS.get(what, what) for what in _ADMISSION), "unknown share"), rows)],
    )


def _trained(record: Record) -> Section | str:
    trained = record.trained
    if trained is None:
        return "nothing was trained"
    text = (
        f"{count_of(trained.rows, 'row')} in {count_of(trained.steps, 'step')}; "
        f"{count(trained.held_out)} rows of held-out users were reserved for the gate."
    )
    days = [
        [Cell(day, "name"), Cell("all tasks" if tasks is None else ", ".join(tasks) or "no task", "part")]
        for day, tasks in trained.days.items()
    ]
    parts: list[Part] = [Grid(("day", "labels that counted"), days, narrow=True)]
    return Section("Training", text, parts)


def _time(record: Record) -> Section | str:
    if not record.seconds:
        return "no time was recorded"
    states: dict[str, float] = {state: record.seconds[state] for state in STATES if state in record.seconds}
    text = f"{duration(sum(states.values()))} in all, over all starts of this attempt."
    drawing = horizontal_bars(states, other_colours(list(STATES)), "Time in each state", duration)
    return Section("Time", text, [Drawing(drawing)] if drawing and len(states) > 1 else [])


def _version(record: Record) -> Section | str:
    written = record.written
    if written is None:
        return "no version was written"
    kind = "as a full version" if written.kind == "full" else f"as a delta, the rows that changed since {record.parent}"
    fate = {"published": "", "rolled back": " It was rolled back."}.get(record.status, " It was not published.")
    rows = [
        [Cell(table, "name"), Cell(count(n)), Cell(count(written.expired.get(table, 0)))]
        for table, n in written.rows.items()
    ]
    grid = Grid(("table", "rows written", "IDs evicted"), rows, narrow=True)
    return Section("Version", f"{record.version} was written {kind}: {gib(written.bytes)}.{fate}", [grid])
