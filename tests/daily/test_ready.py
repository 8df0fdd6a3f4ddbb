"""When a day's logs are there, and the figures of a day."""

import datetime as dt
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.config.root import Config
from raymtl.daily.ready import check_day, day_statistics, find_not_ready, not_final, not_ready
from raymtl.data.roots import Roots
from raymtl.data.validation.report import ColumnReport, LabelRate, PartReport, ScenarioReport, TableReport, TaskReport
from raymtl.errors import DataError, StorageError
from raymtl.storage import retry
from raymtl.synth import SynthSpec, synth_config, write_logs
from tests.helpers.daily_config import daily_config
from tests.helpers.faulty_storage import Faults, register
from tests.helpers.in_process_scan import scan_in_process

DAY = dt.date(2026, 1, 2)


def write(folder: Path, name: str, rows: int = 10) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"user": list(range(rows))}), path)
    return path


def reason(root: Path | str, marker: str | None = None, min_rows: int = 1) -> str | None:
    return find_not_ready(
        daily_config(str(root), ready={"marker": marker, "min_rows": min_rows}), Roots.open([str(root)]), DAY
    )


@pytest.fixture
def logs(tmp_path):
    """The day in two hours of 10 rows, and the day before."""
    for name in ("ds=2026-01-01/a.parquet", "ds=2026-01-02/hour=00/a.parquet", "ds=2026-01-02/hour=01/a.parquet"):
        write(tmp_path, name)
    return tmp_path


def test_a_day_of_hours_is_ready(logs):
    assert reason(logs) is None
    assert reason(logs, min_rows=20) is None


def test_a_day_whose_early_labels_still_arrive(logs, monkeypatch):
    """And not its first version, which waits for final ones."""
    early = {"time": "bought_at", "cutoff_hours": 32.5}
    config = daily_config(str(logs), {"buy": {"delay_days": 2, "early_labels": early}}, {"user": {"kind": "id"}})
    for minute, reasons in {
        29: ["labels of `buy` arrive until 2026-01-03 08:30 UTC (tasks.buy.early_labels.cutoff_hours)"],
        30: [],
    }.items():
        now = dt.datetime(2026, 1, 3, 8, minute, tzinfo=dt.UTC)
        monkeypatch.setattr("raymtl.daily.ready.utc_now", lambda now=now: now)
        assert not_ready(config, DAY, first=False) == reasons
    monkeypatch.setattr("raymtl.daily.ready.utc_now", lambda: dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    assert (
        not_ready(
            config.model_copy(update={"daily": config.daily.model_copy(update={"bootstrap_days": 1})}), DAY, first=True
        )
        == []
    )


def test_early_labels_without_a_zero(tmp_path, monkeypatch):
    """Null until the label arrives, as where it is waited for, would teach nothing but ones."""
    tasks = {"click": {}, "buy": {"parent": "click", "delay_days": 2, "early_labels": {"time": "bought_at"}}}
    config = daily_config(str(tmp_path), tasks, {"user": {"kind": "id"}})
    table = pa.table({"user": [1, 2, 3], "scene": ["feed"] * 3, "click": [1, 0, 1], "bought_at": [None, None, DAY]})
    monkeypatch.setattr("raymtl.data.validation.run.scan", scan_in_process)
    for zero, problems in ((0, 0), (None, 1)):
        path = tmp_path / f"ds={DAY}" / "a.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.append_column("buy", pa.array([zero, zero, 1], pa.int8())), path)
        found = check_day(config, DAY, 1)[1]
        assert len(found) == problems
    assert found == [
        "tasks.buy: every label is 1, and 2 rows have none; with early_labels write 0, not null, where it has not arrived"
    ]


def test_too_few_rows(logs):
    assert reason(logs, min_rows=21) == (
        f"ds=2026-01-02 of `{logs}` has 20 rows in 2 files, fewer than the 21 of daily.ready.min_rows"
    )


def test_the_partition_is_missing(tmp_path):
    write(tmp_path, "ds=2026-01-01/a.parquet")
    for marker in (None, "_SUCCESS"):
        assert reason(tmp_path, marker).startswith(f"`{tmp_path}` has no partition ds=2026-01-02; it has ds=2026-01-01")


def test_a_first_day_long_after_the_logs_asks_for_the_day_to_begin_with(logs):
    config = daily_config(str(logs), bootstrap_days=2)
    assert not_ready(config, dt.date(2026, 3, 1), first=True) == [
        f"the logs `{logs}` end with 2026-01-02, and the first version would be trained on 2026-02-28 to 2026-03-01; to "
        "train on old logs, name their days with --from and --to"
    ]
    later = not_ready(config, dt.date(2026, 1, 3), first=True)
    assert len(later) == 1
    assert "no partition ds=2026-01-03" in later[0]


def test_an_empty_partition(logs):
    for path in (logs / "ds=2026-01-02").glob("hour=*/*"):
        path.rename(path.with_name("_being_written.parquet"))
    assert reason(logs) == f"`{logs}/ds=2026-01-02` has no parquet file yet"


def test_the_marker_counts_in_the_folder_of_the_day(logs):
    (logs / "ds=2026-01-01/_SUCCESS").touch()
    (logs / "ds=2026-01-02/hour=01/_SUCCESS").touch()
    assert reason(logs, "_SUCCESS").startswith(f"`{logs}/ds=2026-01-02` has no `_SUCCESS` yet")
    assert reason(logs, "hour=01/_SUCCESS") is None
    (logs / "ds=2026-01-02/_SUCCESS").touch()
    assert reason(logs, "_SUCCESS") is None


@pytest.mark.parametrize("left", [0, 60])
def test_a_truncated_file_is_still_being_written_unless_the_day_is_marked(logs, left):
    path = logs / "ds=2026-01-02/hour=01/a.parquet"
    path.write_bytes(path.read_bytes()[:left])
    assert str(path) in reason(logs)
    assert "no `_SUCCESS` yet" in reason(logs, "_SUCCESS")
    (logs / "ds=2026-01-02/_SUCCESS").touch()
    with pytest.raises(DataError, match=r"marked as complete \(`_SUCCESS`\), but .*hour=01/a.parquet.*write it again"):
        reason(logs, "_SUCCESS")


def test_a_data_set_that_does_not_exist_is_no_matter_of_waiting(tmp_path):
    with pytest.raises(DataError, match=r"does not exist; set data\.path"):
        reason(tmp_path / "nothing")


@pytest.fixture
def faults(tmp_path_factory, monkeypatch):
    found = Faults(tmp_path_factory.mktemp("faults"))
    monkeypatch.setenv(*found.variable)
    register()
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=lambda seconds: None))
    return found


CALLS = [("list", "*/ds=2026-01-02*"), ("info", "*/_SUCCESS"), ("open", "*/hour=01/*"), ("read", "*/hour=01/*")]


@pytest.mark.parametrize(("operation", "path"), CALLS)
@pytest.mark.parametrize("error", ["EIO", "ConnectionResetError", "503 slow down"])
def test_storage_that_fails_is_no_fault_of_the_logs(logs, faults, operation, path, error):
    (logs / "ds=2026-01-02/_SUCCESS").touch()
    faults.add(operation, path, error, times=2)
    assert reason(f"faulty://{logs}", "_SUCCESS", 20) is None
    faults.clear()
    faults.add(operation, path, error, times=None)
    with pytest.raises(StorageError, match=r"cannot .*ds=2026-01-02.*tried 4 times.*rerun the same command"):
        reason(f"faulty://{logs}", "_SUCCESS")
    assert len(faults.calls(operation, path)) == 4


def test_rights_that_are_missing_are_not_waited_for(logs, faults):
    faults.add("open", "*/hour=01/*", "EACCES", times=None)
    with pytest.raises(StorageError, match="give this user the permission, then rerun the same command"):
        reason(f"faulty://{logs}")
    assert len(faults.calls("open", "*/hour=01/*")) == 1


def test_on_an_fsspec_file_system(logs):
    memory, root = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    memory.put(str(logs), root, recursive=True)
    url = f"memory:/{root}"
    assert "no `_SUCCESS` yet" in reason(url, "_SUCCESS")
    memory.touch(f"{root}/ds=2026-01-02/_SUCCESS")
    assert reason(url, "_SUCCESS", 20) is None
    assert "20 rows in 2 files" in reason(url, "_SUCCESS", 21)
    memory.rm(f"{root}/ds=2026-01-02", recursive=True)
    assert "has no partition" in reason(url, "_SUCCESS")


def test_tasks_made_with_labels_that_are_not_final_are_not_final_either():
    tasks: dict[str, Any] = {"click": {}, "buy": {"delay_days": 3}, "spend": {"kind": "real", "given": "buy"}}
    assert not_final(daily_config(tasks=tasks)) == {"buy", "spend"}


def rate(rows: int, observed: int, positives: int) -> LabelRate:
    mean = positives / observed if observed else None
    return LabelRate(rows, observed, mean, mean or 0.0)


def test_figures_of_a_report():
    report = PartReport(
        path="/logs",
        days="2026-01-02..2026-01-02",
        files=2,
        rows=200,
        types={"user": "string", "tags": "list of integer", "ts": "missing"},
        features={
            "user": ColumnReport("id", "user", 200, 20),
            "tags": ColumnReport("ids", "tags", 200, 20, empty=50),
            "price": ColumnReport("number", "price", 0, 0),
        },
        tasks={
            "click": TaskReport("binary", "click", rate(200, 160, 40), {}, {}),
            "buy": TaskReport("binary", "buy", rate(200, 50, 1), {}, {}),
        },
        tables={"user": TableReport("hash", 100, 37, 0.1)},
        scenario=ScenarioReport("scene", {"feed": 100, "search": 60}, {"live": 30}, 10),
    )
    stats = day_statistics(report, daily_config())
    assert (stats.rows, stats.files, stats.columns) == (200, 2, report.types)
    assert stats.nulls == {"user": 0.1, "tags": 0.25}
    assert stats.observed == {"click": 0.8}
    assert stats.labels == {"click": 0.25}
    assert stats.deviations == {"click": pytest.approx((0.25 * 0.75) ** 0.5)}
    assert stats.scenarios == {"feed": 0.5, "search": 0.3, "other": 0.2}
    assert stats.distinct == {"user": 37}


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_a_day_is_read_by_itself_and_late_labels_may_be_missing(tmp_path, ray_cluster):
    spec = SynthSpec(days=2, rows_per_day=2000, users=200, items=100)
    write_logs(spec, str(tmp_path))
    raw = synth_config(spec, str(tmp_path))
    raw["daily"] = {"store": str(tmp_path / "versions")}
    first, last = spec.dates()

    (tmp_path / f"ds={first}/broken.parquet").write_bytes(b"")  # of no interest to the other day
    for path in (tmp_path / f"ds={last}").glob("*.parquet"):
        rows = pq.read_table(path)
        nothing = pa.array([False] * len(rows))
        pq.write_table(rows.set_column(rows.schema.get_field_index("buy_mature"), "buy_mature", nothing), path)
    raw["tasks"]["buy"]["delay_days"] = 3
    stats, problems = check_day(Config.model_validate(raw), last, 2)
    assert problems == []
    assert (stats.rows, stats.files) == (2000, 1)
    assert stats.observed.keys() == stats.labels.keys() == raw["tasks"].keys() - {"buy"}
    assert stats.columns["item_id"] in ("integer", "string")
    assert stats.columns["click"] == "number"
    assert sum(stats.scenarios.values()) == pytest.approx(1)
    assert 0 < stats.labels["click"] < 1


@pytest.fixture
def two_roots(tmp_path):
    """Two roots: one with both days, one that has the first day alone so far."""
    write(tmp_path, "a/ds=2026-01-01/a.parquet")
    write(tmp_path, "a/ds=2026-01-02/a.parquet")
    write(tmp_path, "b/ds=2026-01-01/a.parquet")
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def reason_of(roots: list[str], marker: str | None = None, min_rows: int = 1) -> str | None:
    config = daily_config(roots[0], ready={"marker": marker, "min_rows": min_rows})
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": roots})})
    return find_not_ready(config, Roots.open(roots), DAY)


def test_a_day_waits_for_every_root(two_roots):
    assert reason_of(two_roots) == (
        f"`{two_roots[1]}` has no partition ds=2026-01-02; it has ds=2026-01-01 to ds=2026-01-01, 1 day; write the missing days, "
        "or choose days that exist; a root that gets no more days must leave data.path"
    )
    write(Path(two_roots[1]), "ds=2026-01-02/a.parquet")
    assert reason_of(two_roots, min_rows=20) is None
    assert "has 20 rows in 2 files, fewer than the 21" in str(reason_of(two_roots, min_rows=21))


def test_every_root_needs_its_marker(two_roots):
    write(Path(two_roots[1]), "ds=2026-01-02/a.parquet")
    Path(two_roots[0], "ds=2026-01-02", "_SUCCESS").touch()
    assert str(reason_of(two_roots, "_SUCCESS")).startswith(f"`{two_roots[1]}/ds=2026-01-02` has no `_SUCCESS` yet")
    Path(two_roots[1], "ds=2026-01-02", "_SUCCESS").touch()
    assert reason_of(two_roots, "_SUCCESS") is None


def test_a_root_that_begins_later_is_not_expected(two_roots):
    write(Path(two_roots[0]).parent, "c/ds=2026-01-03/a.parquet")
    assert reason_of([two_roots[0], two_roots[0].replace("/a", "/c")]) is None
