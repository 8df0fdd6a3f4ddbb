"""The pages and the table of the daily job: the right numbers, whole days, days that ended early, and text that is no HTML."""

import datetime as dt
import io
import itertools
import json
import math
import pathlib
import re

import fsspec
import pyarrow.fs as pafs
import pytest
from matplotlib.axes import Axes
from rich.console import Console

from raymtl.cli.main import run_command
from raymtl.daily.record import (
    Check,
    Comparison,
    GateResult,
    NextDay,
    Record,
    Trained,
    folder,
    read_record,
    write_record,
)
from raymtl.daily.reports.data_part import Statistic
from raymtl.daily.reports.day import DAYS, write_day_report
from raymtl.daily.reports.gains import gains_of, mean_gains
from raymtl.daily.reports.index import write_index
from raymtl.daily.reports.series import next_day, number_in, task_names
from raymtl.daily.reports.table import day_table, verdict
from raymtl.model_store.store import publish
from raymtl.reports.chance import LEGEND
from raymtl.reports.days import ratio_to_median
from raymtl.reports.style import short_count, short_day, task_colours
from raymtl.storage.object_store import Store
from raymtl.words import gib
from tests.helpers.fake_records import (
    DELAY_DAYS,
    FIRST,
    REFUSED_BY_CHECK,
    REFUSED_BY_GATE,
    SKIPPED,
    TABLES,
    TASKS,
    thirty_days,
    with_intervals,
)
from tests.helpers.fake_versions import write

MEMORY = itertools.count()
RECORDS = thirty_days()
BY_DATE = {record.date: record for record in RECORDS}
LAST = RECORDS[-2]  # the newest published one


def words(page: str) -> str:
    """What a reader sees: no tags, no drawings, no style."""
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def drawings(page: str) -> str:
    return " ".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("days") / "store"))


def day(store: Store, record: Record, earlier: list[Record] = RECORDS) -> str:
    return pathlib.Path(write_day_report(store, record, earlier)).read_text()


@pytest.fixture(scope="module")
def page(store: Store) -> str:
    return day(store, LAST)


@pytest.fixture(scope="module")
def index(store: Store) -> str:
    return pathlib.Path(write_index(store, RECORDS)).read_text()


def bare(**changes: object) -> Record:
    started = dt.datetime(2026, 11, 24, 2, tzinfo=dt.UTC)
    return Record(date=dt.date(2026, 11, 23), config_hash="c0ffee", parent=None, started=started).model_copy(
        update=changes
    )


def without_drawings(record: Record) -> Record:
    """With little to draw, which takes most of the time of a page."""
    return record.model_copy(
        update={"stats": None, "trained": None, "gate": None, "next_day": [], "comparisons": [], "seconds": {}}
    )


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>([^<]+)</h2>", page)


def test_where_the_pages_lie(store: Store) -> None:
    assert write_day_report(store, without_drawings(LAST), []) == f"{store.path}/{folder(LAST.date)}/report.html"
    assert write_index(store, [without_drawings(LAST)]) == f"{store.path}/days/index.html"


def test_any_storage_will_do() -> None:
    root = f"/store-{next(MEMORY)}"
    files = pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("memory")))
    store = Store(f"memory:/{root}", files, root)
    record = without_drawings(RECORDS[0])
    write_day_report(store, record, [])
    write_index(store, [record])
    for name in (f"{folder(RECORDS[0].date)}/report.html", "days/index.html"):
        assert (store.read(name) or b"").startswith(b"<!doctype html>")


def test_a_day_has_what_was_asked_for(page: str) -> None:
    text = words(page)
    assert titles(page) == [
        "Next day",
        "Gain over older versions",
        "Gate",
        "Data",
        "IDs",
        "Training",
        "Time",
        "Version",
    ]
    assert f"Published : version {LAST.version} follows {LAST.parent}" in text
    assert f"{LAST.parent} → {LAST.version}" in text
    click = LAST.next_day[0].metrics["eval"]["click"]
    assert f"click all {click['auc']:.4f}" in text
    search = LAST.next_day[0].metrics["scenarios"]["search"]["click"]
    assert f"search {search['auc']:.4f} {search['count']:,} {search['positives']:,} {search['calibration']:.3f}" in text
    assert f"{search['gauc']:.4f} {search['ne']:.4f}" in text
    assert "no positives among 8 observed labels" not in text
    gate = {(c.task, c.name): c for c in LAST.gate.checks}
    auc = gate["click", "auc"]
    assert f"click AUC passed {auc.candidate:.4f} {auc.base:.4f} {auc.limit}" in text
    assert re.search(r"buy AUC not judged [^a-z]* 43 positives, fewer than 50", text)
    assert "norm user passed 0.1339 0.1312 ≤ 0.1968" in text
    assert f"{LAST.stats.rows:,} rows in 24 files. Compared with the 14 published days before." in text
    assert "10 features have no nulls" in text
    assert text.count(LEGEND) == 2
    ids = LAST.trained.ids["query"]
    assert f"query {ids['known']['ids']:,} {ids['admitted']['ids']:,} {ids['evicted']['ids']:,}" in text
    assert f"{LAST.trained.rows:,} rows in {LAST.trained.steps:,} steps; 48,213 rows of held-out users" in text
    assert f"{LAST.date} click, cart, dwell_s {LAST.date - dt.timedelta(days=DELAY_DAYS)} buy" in text
    assert f"{LAST.version} was written as a full version: {gib(LAST.written.bytes)}." in text
    assert all(state in drawings(page) for state in LAST.seconds)


def test_a_delayed_task_says_which_day_it_is_about(page: str) -> None:
    late = LAST.next_day[1]
    assert f"Rows of {late.day}, whose labels are final now: {late.rows:,} scored by version {late.version}" in words(
        page
    )


def test_a_full_table_asks_for_a_look(page: str) -> None:
    assert '<td class="look">1,312</td>' in page


def test_the_verdict_comes_first(page: str) -> None:
    assert page.index('class="verdict"') < page.index('class="keys"') < page.index("<h2>")
    assert '<span class="status good">Published</span>' in page


def test_a_refused_day_shows_what_failed_first(store: Store) -> None:
    page = day(store, BY_DATE[REFUSED_BY_GATE])
    text = words(page)
    assert "Refused : 2026-11-04" in text
    check = BY_DATE[REFUSED_BY_GATE].gate.checks[0]
    assert f"because the AUC of click is {check.candidate:.4f} (allowed {check.limit}, before {check.base:.4f})" in text
    assert text.count("was refused") == 0
    assert "must not be published: of 16 checks 2 failed and 2 could not be judged" in text
    assert page.index(">failed<") < page.index(">passed<")
    assert "It was not published." in text
    assert '<span class="status">Refused</span>' in page


def test_a_day_refused_by_the_check_shows_why(store: Store) -> None:
    page = day(store, BY_DATE[REFUSED_BY_CHECK])
    assert titles(page) == ["Data", "Time", "Missing sections"]
    assert (
        "The day ended in `check`, refused: no version was scored on its rows, the gate judged no candidate"
        in words(page)
    )
    rows = BY_DATE[REFUSED_BY_CHECK].stats.rows
    assert f'<td class="look">{rows:,}</td>' in page
    assert "var(--look)" in drawings(page)


def test_the_first_day_has_nothing_before_it(store: Store) -> None:
    text = words(day(store, RECORDS[0]))
    assert "is the first version, full, " in text
    assert f"nothing → {RECORDS[0].version}" in text
    assert "There was no earlier version that could be scored on this day." in text
    assert "As the first version it was scored alone, on 48,213 rows" in text
    assert "There is no published day before this one to compare with." in text
    assert "median before" not in text
    assert "←" not in text


def test_links_between_the_pages(store: Store, page: str, index: str) -> None:
    assert re.findall(r'<a href="([^"]+)"', page) == [f"../{RECORDS[-3].date}/report.html", "../index.html"]
    assert re.findall(r'<a href="([^"]+)"', index) == [f"{record.date}/report.html" for record in reversed(RECORDS)]
    home = pathlib.Path(store.path) / "days"
    assert (home / str(LAST.date) / "../index.html").resolve() == (home / "index.html").resolve()


def test_nothing_from_outside(page: str, index: str) -> None:
    for text in (page, index):
        for piece in ("<script", "<link", "@import", "src="):
            assert piece not in text
        assert not re.search(
            r"""(?:https?:)?//[^\s"'<)]+""", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text).replace("url(#", "")
        )
        assert len(text) < 2_000_000


def test_the_index_draws_what_drifts(index: str) -> None:
    assert titles(index) == [
        "Next-day metrics",
        "Gain over older versions",
        "Days",
        "Data",
        "IDs",
        "Time",
        "Size of the versions",
    ]
    drawn = drawings(index)
    for piece in ("AUC", "NE", "million rows", "mean label", "of the rows", "IDs", "minutes", "bytes written"):
        assert f">{piece}</text>" in drawn
    assert "full" in drawn
    assert "delta" in drawn
    assert drawn.count("var(--look)") >= 2 * 3  # two refused days in each panel
    assert all(table in drawn for table in TABLES)
    for colour in task_colours(list(TASKS)).values():
        assert colour in drawn


def test_the_index_has_a_row_per_day(index: str) -> None:
    text = words(index)
    assert "2026-11-23: Not ready : `logs/ds=2026-11-23` has no `_SUCCESS` yet." in text
    assert str(SKIPPED) not in text
    click = LAST.next_day[0].metrics["eval"]["click"]["auc"]
    week_ago = next(c for c in LAST.comparisons if c.name == "7 days ago").metrics["eval"]["click"]["auc"]
    gain = f"{LAST.gate.candidate['eval']['click']['auc'] - week_ago:+.4f}".replace("-", "−")
    assert f"{LAST.date} published {LAST.version} {LAST.stats.rows:,} {click:.4f} {gain}" in text
    assert "buy AUC, 3 days before" in text


def test_only_the_last_thirty_days(store: Store) -> None:
    older = RECORDS[0].model_copy(update={"date": RECORDS[-1].date - dt.timedelta(days=DAYS)})
    page = pathlib.Path(write_index(store, [without_drawings(record) for record in (older, *RECORDS)])).read_text()
    assert str(older.date) not in page
    assert str(FIRST) in page


def test_values_stand_at_the_day_of_their_rows() -> None:
    aucs = next_day(RECORDS, lambda report: number_in(report, "auc"))
    assert max(aucs["buy"]) == LAST.date - dt.timedelta(days=DELAY_DAYS)
    assert max(aucs["click"]) == LAST.date
    assert SKIPPED not in aucs["click"]
    assert REFUSED_BY_CHECK not in aucs["click"]
    assert aucs["dwell_s"] == {}
    assert all(len(values) > 20 for task, values in aucs.items() if task != "dwell_s")
    assert task_names(RECORDS) == task_names(RECORDS[:2]) == list(TASKS)


def test_text_from_records_is_escaped(store: Store) -> None:
    bad = "<script>alert(1)</script>"
    check = Check(task=bad, name=bad, base=None, candidate=0.5, limit=f"≥ {bad}", passed=False, note=bad)
    gate = GateResult(passed=False, checks=[check], holdout_rows=1, base=None, candidate={})
    entry = NextDay(
        day=dt.date(2026, 11, 23), version=bad, rows=1, metrics={"eval": {bad: {"kind": "binary", "auc": 0.6}}}
    )
    record = bare(status="refused", state="gate", reason=bad, notes=[bad], gate=gate, next_day=[entry])
    for text in (day(store, record, []), pathlib.Path(write_index(store, [record])).read_text()):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    "record",
    [
        bare(),
        bare(status="not ready", parent="v1"),
        bare(status="broken", state="check", parent="v1", reason="a worker\nwas lost."),
        bare(status="refused", state="gate"),
        bare(status="published", state="expire", version="v2"),
        bare(parent="v1", next_day=[NextDay(day=dt.date(2026, 11, 23), version="v1", rows=0, metrics={})]),
        bare(next_day=[NextDay(day=dt.date(2026, 11, 20), version="v1", rows=5, metrics={"eval": {"click": None}})]),
        bare(next_day=[NextDay(day=dt.date(2026, 11, 23), version="v1", rows=5, metrics={"eval": None, "scenarios": None})]),
        bare(gate=GateResult(passed=True, checks=[], holdout_rows=0, base=None, candidate={})),
        bare(trained=Trained(rows=0, held_out=0, steps=1, days={"2026-11-23": None})),
        bare(trained=Trained(rows=1, held_out=0, steps=1, days={}, ids={"user": {}, "item": {"admitted": {"ids": 0}}})),
        bare(seconds={"wait": 0.0, "check": 0.0}),
    ],
)  # fmt: skip
def test_whatever_is_missing(store: Store, record: Record) -> None:
    assert "The day " in words(day(store, record, []))
    assert "The day " in words(day(store, record, RECORDS[-6:]))
    assert str(record.date) in words(pathlib.Path(write_index(store, [record])).read_text())
    assert verdict(record).count("..") == 0
    Console(file=io.StringIO()).print(day_table([record]))


def test_an_empty_store_has_a_page(store: Store) -> None:
    assert "No day yet : none has started yet." in words(pathlib.Path(write_index(store, [])).read_text())


def test_missing_numbers_of_a_task_have_their_reason(store: Store) -> None:
    report = {
        "kind": "binary",
        "auc": None,
        "ne": None,
        "count": 9,
        "null_reason": "no positives among 9 observed labels",
    }
    entry = NextDay(day=dt.date(2026, 11, 23), version="v1", rows=9, metrics={"eval": {"click": report}})
    text = words(day(store, bare(parent="v1", next_day=[entry]), []))
    assert "click – 9 – – – – – – no positives among 9 observed labels" in text


def test_columns_that_changed_are_named(store: Store) -> None:
    stats = LAST.stats.model_copy(update={"columns": {"user": "string", "item": "string", "age": "float"}})
    text = words(day(store, LAST.model_copy(update={"stats": stats})))
    assert "Column `user` is now string, it was int64." in text
    assert "Column `age` (float) is read for the first time." in text
    assert "Column `click` is no longer read." in text


def test_verdicts() -> None:
    assert verdict(BY_DATE[REFUSED_BY_CHECK]).startswith(
        f"Refused: {BY_DATE[REFUSED_BY_CHECK].parent} stays the current version"
    )
    assert verdict(RECORDS[-1]).startswith("Not ready: `logs/ds=")
    assert verdict(bare(status="broken", state="check", reason="a worker\nwas lost.")) == (
        "Broken: in `check`, a worker was lost."
    )
    assert verdict(bare(state="train")) == "Running: in `train`."
    assert (
        verdict(bare(state="train", reason="no GPU."))
        == "Stopped: in `train`, no GPU; rerun the same command to resume."
    )
    assert verdict(bare(status="not ready")) == (
        "Not ready: the day's logs are not complete yet; rerun the same command later."
    )
    many = "2026-11-23: `buy` is null. Mend the logs."
    assert verdict(bare(status="refused", reason=many, parent="v1")) == (
        "Refused: v1 stays the current version, because `buy` is null. Mend the logs."
    )
    check = Check(task="click", name="auc", base=0.75, candidate=0.7, limit="≥ 0.74", passed=False)
    gate = GateResult(passed=False, checks=[check], holdout_rows=1, base=None, candidate={})
    assert verdict(bare(status="refused", state="gate", gate=gate)) == (
        "Refused: there is still no version, because the AUC of click is 0.7000 (allowed ≥ 0.74, before 0.7500)."
    )
    assert verdict(LAST).endswith(f"full, {gib(LAST.written.bytes)}; 14 checks passed, 2 not judged.")


def test_the_table_on_the_terminal() -> None:
    console = Console(width=190, record=True, file=io.StringIO())
    console.print(day_table(list(reversed(RECORDS))))
    lines = console.export_text().splitlines()
    heads = "date verdict version rows click AUC cart AUC 3 days before dwell_s deviance new IDs time size"
    assert " ".join(lines[1].split()) == heads
    days = lines[2 : 2 + len(RECORDS)]
    assert [line.split()[0] for line in days] == [str(record.date) for record in RECORDS]
    assert days[-2].split()[1:4] == ["published", LAST.version, f"{LAST.stats.rows:,}"]
    assert days[-2].split()[-2:] == ["MiB", "full"]
    assert "not ready" in days[-1]


def test_the_pages_are_made_from_what_is_stored(store: Store) -> None:
    write_record(store, LAST)
    stored = read_record(store, LAST.date)
    assert stored is not None
    assert day(store, stored) == day(store, LAST)


def test_a_rollback_shows_on_every_page(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = Store.open(str(tmp_path / "store"))
    days = [without_drawings(record) for record in RECORDS if record.status == "published"][-3:]
    for record in days:
        write_record(model, record)
        write(model, record.version)
        publish(model, record.version)
        write_day_report(model, record, days)
    write_index(model, days)
    home = pathlib.Path(model.path, "days")
    first, second, third = (record.version for record in days)
    assert f"current version: {third}" in words((home / "index.html").read_text())
    untouched = (home / str(days[0].date) / "report.html").stat().st_mtime_ns

    assert run_command(["versions", "rollback", str(days[0].date), "--store", model.path]) == 0
    assert (home / str(days[0].date) / "report.html").stat().st_mtime_ns == untouched
    page = words((home / "index.html").read_text())
    assert f"{days[2].date}: Rolled back : version {third} was replaced by {first} on 20" in page
    assert f"current version: {first}" in page
    for record in days[1:]:
        assert f"{record.date} rolled back {record.version}" in page
        own = words((home / str(record.date) / "report.html").read_text())
        assert f"Rolled back : version {record.version} was replaced by {first} on 20" in own
        assert "It was rolled back." in own
    assert f"{days[0].date} published {first}" in page
    capfd.readouterr()
    assert run_command(["report", model.path]) == 0
    assert capfd.readouterr().out.count("rolled back") == 2
    assert run_command(["versions", "list", "--store", model.path, "--json"]) == 0
    listed = json.loads(capfd.readouterr().out.splitlines()[-1])["versions"]
    assert [(v["id"], v["status"]) for v in listed] == [
        (third, "rolled back"),
        (second, "rolled back"),
        (first, "current"),
    ]
    assert "rolled_back" in listed[0]

    assert run_command(["versions", "rollback", third, "--store", model.path]) == 0
    assert "Published : version" in words((home / str(days[1].date) / "report.html").read_text())
    assert "rolled back" not in words((home / "index.html").read_text())


def compared(number: int, auc: float, older: dict[str, float], **changes: object) -> Record:
    """A day whose version has this AUC on the held-out rows, and older ones have others."""
    report = {"kind": "binary", "count": 100}
    metrics = {name: {"eval": {"click": {**report, "auc": value}}} for name, value in older.items()}
    previous = metrics.pop("previous", None)
    gate = GateResult(
        passed=True, checks=[], holdout_rows=100, base=previous, candidate={"eval": {"click": {**report, "auc": auc}}}
    )
    found = [Comparison(name=name, version=f"v-{name}", metrics=m) for name, m in metrics.items()]
    values = {"date": dt.date(2026, 11, number), "status": "published", "parent": "v0", "gate": gate}
    return bare(**{**values, "comparisons": found, **changes})


def test_mean_gains_with_their_interval() -> None:
    days = [
        compared(1, 0.70, {"previous": 0.70, "first": 0.70}),
        compared(2, 0.71, {"previous": 0.705, "first": 0.69}),
        compared(3, 0.60, {"previous": 0.70}, status="refused"),
        compared(4, 0.72, {"previous": 0.718, "first": 0.68, "7 days ago": 0.71}),
    ]
    found = mean_gains(days)
    assert set(found) == {("previous", "click"), ("first", "click"), ("7 days ago", "click")}
    gains = [0.0, 0.02, 0.04]
    over_first = found["first", "click"]
    assert (over_first.mean, over_first.count) == (pytest.approx(0.02), 3)
    assert over_first.half == pytest.approx(4.302653 * 0.02 / math.sqrt(len(gains)), rel=1e-6)
    assert not over_first.beyond_chance
    assert found["7 days ago", "click"].half is None
    days[0].comparisons[0].version = "another"  # the first version was removed since
    assert mean_gains(days)["first", "click"].count == 2


def test_a_lower_error_is_a_gain() -> None:
    older = {"eval": {"dwell": {"kind": "count", "count": 9, "poisson_deviance": 2.5}}}
    newer = {"eval": {"dwell": {"kind": "count", "count": 9, "poisson_deviance": 2.0}}}
    record = compared(1, 0.7, {})
    record.comparisons = [Comparison(name="first", version="v", metrics=older)]
    record.gate.candidate = newer
    assert [gain.value for gain in gains_of(record)] == [0.5]


def test_gains_stand_on_the_pages(page: str, index: str) -> None:
    gain = next(g for g in gains_of(LAST) if (g.task, g.over) == ("click", "7 days ago"))
    assert re.search(rf"click AUC previous [+−]\S+ {LAST.parent} ", words(page))
    row = f"7 days ago {gain.text()} {gain.version} {gain.before:.4f} {gain.after:.4f}"
    assert row in words(page)
    mean = mean_gains(RECORDS)["first", "click"]
    assert mean.count > 20
    assert f"first {gain.text(mean.mean)} {mean.half:.4f} {mean.count} better" in words(index)


@pytest.mark.parametrize(
    ("before", "value", "rows", "expected"),
    [
        ([100.0, 101.0, 102.0], 125.0, 0, False),  # three days tell little: 22 deviations of 1.5 are 33
        ([100.0, 101.0, 102.0], 140.0, 0, True),
        ([99.0, 100.0, 101.0] * 4, 115.0, 0, True),  # with twelve days 4 are enough
        ([0.010] * 14, 0.014, 500, False),  # 5 rows of 500, now 7
        ([0.010] * 14, 0.014, 500_000, True),
        ([0.5] * 14, 0.51, 10_000_000, False),  # beyond chance, but not by a tenth
    ],
)
def test_data_are_unusual_only_beyond_chance(before: list[float], value: float, rows: int, expected: bool) -> None:
    assert Statistic("statistic", "", value, before, str, rows).unusual is expected


def test_the_gate_says_which_checks_did_not_pass(page: str) -> None:
    assert "gate 14 of 16 checks passed; not judged: buy AUC, NE" in words(page)


def test_the_tile_of_the_gate_names_three_checks_and_leads_to_all(store: Store) -> None:
    checks = [
        Check(task=f"t{n}", name="auc", base=None, candidate=None, limit="", passed=None, note="few") for n in range(16)
    ]
    gate = GateResult(passed=True, checks=checks, holdout_rows=9, base=None, candidate={})
    page = day(store, bare(gate=gate), [])
    assert "gate 0 of 16 checks passed; not judged: t0 AUC; t1 AUC; t2 AUC and 13 more" in words(page)
    assert '<a href="#gate">and 13 more</a>' in page
    assert '<section id="gate">' in page
    gate.checks[15].passed = False
    assert "0 of 16 checks passed, 15 not judged; failed: t15 AUC" in words(day(store, bare(gate=gate), []))


def test_the_settings_stand_at_the_top(page: str, index: str) -> None:
    line = "preset aitm · batch 8,192 · learning rates adam 0.003, tables adagrad 0.03"
    assert line in page[: page.index('class="keys"')]
    assert line in index[: index.index('class="keys"')]


def test_tiles_say_what_they_rest_on(page: str, index: str) -> None:
    rows = sorted(short_count(entry.rows) for entry in LAST.next_day)
    tasks = f"mean of 3 tasks, {' to '.join(rows)} rows"
    assert tasks in words(page)
    assert f"{short_day(LAST.date)}: {tasks}".replace("\u00a0", " ") in words(index)
    assert "over the version of 7 days ago, mean of 3 tasks, same 48.2 k held-out rows" in words(page)


def test_next_day_metrics_are_dots_with_bars_and_no_line_joins_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float, float]] = []
    errorbar = Axes.errorbar

    def barred(ax: Axes, x: list[int], y: list[float], yerr: list[list[float]], fmt: str, **look: object) -> object:
        assert fmt == "o"
        drawn.extend(zip(y, *yerr, strict=True))
        return errorbar(ax, x, y, yerr, fmt=fmt, **look)

    monkeypatch.setattr(Axes, "errorbar", barred)
    found = [r.model_copy(update={"stats": None, "trained": None, "seconds": {}}) for r in with_intervals(RECORDS)]
    page = words(pathlib.Path(write_index(store, found)).read_text())
    click = found[-2].next_day[0].metrics["eval"]["click"]
    for name in ("auc", "ne", "calibration"):
        value, (low, high) = click[name], click["intervals"][name]
        assert (value, pytest.approx(value - low), pytest.approx(high - value)) in drawn
    assert len(drawn) == 2 * sum(map(len, next_day(found, lambda r: r.get("calibration")).values())) + 2 * 2 * sum(
        map(len, next_day(found, lambda r: r.get("auc")).values())
    ) + 2 * len(next_day(found, lambda r: r.get("poisson_deviance"))["dwell_s"])
    assert "The days have different rows" in page
    assert "the section Gain over older versions shows its progress" in page


def test_a_phone_shows_at_most_three_ticks_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[list[float]] = []
    monkeypatch.setattr(Axes, "set_xticks", lambda ax, places, labels: ticks.append(places))
    for value, steps in ((1.2, [0.8, 1.0, 1.25]), (1.6, [0.7, 1.0, 1.5]), (5.0, [0.25, 1.0, 4.0])):
        ticks.clear()
        assert ratio_to_median([("rows", value, 0.9, 1.1, False)], {}, "rows")
        wide, narrow = ticks
        assert len(wide) > 3
        assert narrow == steps
