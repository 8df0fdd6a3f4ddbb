"""A next-day metric that falls, and the column that the day's record and report name for it."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
import ray

from raymtl.config.root import Config
from raymtl.daily.day import DailyRequest
from raymtl.daily.fall import explain_fall, fallen
from raymtl.daily.record import NextDay, Record, read_record, write_record
from raymtl.daily.runner import run_daily
from raymtl.model_store.store import list_versions
from raymtl.storage.object_store import Store
from tests.benchmarks.explain.faults import with_fault
from tests.benchmarks.explain.world import START, columns_of_day, train_here, world_config, write_day

ROWS = 6007


def auc(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"kind": "binary", "auc": value, "count": 9, "intervals": {"auc": [value - half, value + half]}}


def mse(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"kind": "real", "mse": value, "count": 9, "intervals": {"mse": [value - half, value + half]}}


def test_a_metric_has_fallen_by_more_than_three_standard_errors() -> None:
    """Those of a difference: √2 · 0.01 / 1.96 = .0072, thrice that .0216."""
    assert fallen({"a": auc(0.8)}, {"a": auc(0.778)}) == ["a"]
    assert fallen({"a": auc(0.8)}, {"a": auc(0.779)}) == []
    assert fallen({"a": auc(0.8)}, {"a": auc(0.9)}) == []
    assert fallen({"a": mse(2.0)}, {"a": mse(2.03)}) == ["a"]
    assert fallen({"a": mse(2.0)}, {"a": mse(1.9)}) == []
    assert fallen({}, {"a": auc(0.5)}) == []
    assert fallen({"a": auc(0.8)}, {"a": auc(0.5) | {"intervals": {}}}) == []
    assert fallen({"a": auc(0.8)}, {"a": mse(9.0)}) == []


def record(day: int, value: float, **more: Any) -> Record:
    date = START + dt.timedelta(days=day)
    scored = NextDay(day=date, version="v1", rows=9, metrics={"eval": {"click": auc(value)}})
    begun = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return Record(date=date, config_hash="", parent="v1", started=begun, next_day=[scored], **more)


def test_why_there_is_no_explanation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(2):
        write_day(tmp_path / "logs", day, columns_of_day(0, day, 500))
    config = world_config(tmp_path, 2)
    store = Store.open(train_here(config, tmp_path))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)

    def explained(day: Record) -> tuple[Any, list[str]]:
        listed = list_versions(store)
        assert listed[0].manifest is not None
        return explain_fall(config, store, listed, listed[0].manifest, day)

    assert explained(record(3, 0.5)) == (None, [])  # there is no day before
    write_record(store, record(2, 0.8, status="published"))
    assert explained(record(3, 0.79)) == (None, [])  # within chance
    monkeypatch.setattr("raymtl.daily.fall._MOST_BYTES", 1000)
    _, (note,) = explained(record(3, 0.5))
    assert note.startswith("click has fallen since 2026-01-03; the tables take 1.4 MiB, so run `raymtl explain ")
    assert "/store/versions/v1 --days 2026-01-04 --baseline 2026-01-03`" in note
    write_record(store, record(0, 0.8, status="published"))
    _, (note,) = explained(record(1, 0.5))
    assert note == (
        "click has fallen since 2026-01-01; it could not be explained, because the version before that day was removed"
    )


def daily_config(root: Path) -> Config:
    """A day's job whose gate lets all candidates pass."""
    gate = {
        "holdout": 0.1,
        "auc_drop": 1,
        "ne_rise": 10,
        "calibration": [0.001, 1000],
        "norm_growth": 100,
        "order_rise": 1,
    }
    train = {"batch_size": 400, "threads_per_worker": 1, "epochs": 1}
    return world_config(
        root,
        2,
        data={"eval": None},
        train=train,
        daily={"store": str(root / "store"), "bootstrap_days": 2, "gate": gate},
    )


@pytest.mark.ray
@pytest.mark.timeout(480)
def test_the_record_and_the_report_of_a_day_name_the_broken_column(ray_cluster: None, tmp_path: Path) -> None:
    for day in range(4):
        columns = columns_of_day(0, day, ROWS)
        write_day(tmp_path / "logs", day, with_fault(columns, "shuffled", "city", 0) if day == 3 else columns)
    config = daily_config(tmp_path)
    days = [START + dt.timedelta(days=day) for day in range(4)]
    request = DailyRequest(days[3], days[1])
    said: list[str] = []
    records = run_daily(config, request, address=None, on_event=lambda event: said.append(str(event.get("note", ""))))
    assert [record.status for record in records] == ["published"] * 3
    assert any(line.startswith(f"{days[3]}: city explains the fall of click") for line in said)
    store = Store.open(str(tmp_path / "store"))
    usual, broken = read_record(store, days[2]), read_record(store, days[3])
    assert usual is not None
    assert broken is not None
    assert usual.fall is None
    assert broken.fall is not None, broken.notes
    click = broken.fall["tasks"]["click"]
    assert click["has_fallen"]
    assert [cause["column"] for cause in click["causes"]] == ["city"]
    assert broken.fall["baseline"] == [str(days[2])] * 2
    assert broken.fall["version"] == usual.parent  # it has seen neither of the two days
    page = (tmp_path / "store" / "days" / str(days[3]) / "report.html").read_text()
    assert "Why it fell" in page
    assert "city explains the fall of click" in page
    assert "Why it fell" not in (tmp_path / "store" / "days" / str(days[2]) / "report.html").read_text()
