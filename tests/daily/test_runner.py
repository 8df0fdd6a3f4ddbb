"""The daily job, end to end: days in order, done once, refused, not ready, broken, held up by another job."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raymtl.cli.main import run_command
from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.daily.day import DailyRequest
from raymtl.daily.record import Record, read_record
from raymtl.daily.runner import dry_run, run_daily
from raymtl.errors import ConfigError, DataError, RefusedError, TryLaterError
from raymtl.model_store import store as versions
from raymtl.model_store.lease import acquire
from raymtl.storage.object_store import Store
from tests.helpers.daily_process import command, no_lease, nothing_is_half, train_worker, until
from tests.helpers.daily_world import FILES, contents, daily_raw, day_of, same, write_day

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]
ROWS = sum(FILES)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("days")
    for number in range(4):
        write_day(root, number)
    return root


def daily(config: Config, number: int, said: list[str] | None = None, **order: Any) -> list[Record]:
    lines = said if said is not None else []
    asked = DailyRequest(day_of(number), **order)
    return run_daily(config, asked, address=None, on_event=lambda item: lines.append(str(item.get("note", ""))))


def opened(config: Config) -> Store:
    assert config.daily is not None
    return Store.open(config.daily.store)


def raw_of(logs: Path, store: Path, **daily: Any) -> dict[str, Any]:
    return daily_raw(logs, store, ready={"marker": "_SUCCESS"}, **daily)


@dataclass
class First:
    """How the first version came about: its day was not ready, then broken, then done."""

    store: Path
    not_ready: tuple[TryLaterError, Record | None]
    broken: tuple[DataError, Record | None]
    current_then: str | None
    """Version when the day was broken."""
    records: list[Record]
    said: list[str]


@pytest.fixture(scope="module")
def first(ray_cluster: None, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    store = tmp_path_factory.mktemp("first") / "store"
    config = config_from_dict(raw_of(logs, store))
    with pytest.raises(TryLaterError) as late:
        daily(config, 1)
    not_ready = late.value, read_record(opened(config), day_of(1))
    for day in logs.iterdir():
        (day / "_SUCCESS").touch()
    write_day(logs, 1, (150,), click=np.full(150, 7.0, np.float32))
    with pytest.raises(DataError) as odd:
        daily(config, 1)
    broken = odd.value, read_record(opened(config), day_of(1))
    current = versions.current(opened(config))
    write_day(logs, 1)
    said: list[str] = []
    return First(store, not_ready, broken, current, daily(config, 1, said), said)


@pytest.fixture(scope="module")
def first_version(first: First) -> Path:
    """A store with a first version out of two days, for others to begin with a copy of it."""
    return first.store


def begun(first_version: Path, folder: Path) -> Path:
    """A copy of the store with the first version."""
    return Path(shutil.copytree(first_version, folder / "store"))


@pytest.fixture(scope="module")
def four_days(first_version: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, list[Record]]:
    """Two days on the first version, as deltas."""
    store = begun(first_version, tmp_path_factory.mktemp("model"))
    config = config_from_dict(raw_of(logs, store, accumulator_decay=0.9))
    return config, [*daily(config, 1), *daily(config, 3)]


@dataclass
class Refused:
    """The second day on the first version, written whole, and refused."""

    config: Config
    strict: Config
    """With the gate that refused it."""
    error: RefusedError
    record: Record


@pytest.fixture(scope="module")
def refused(first_version: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    store = begun(first_version, tmp_path_factory.mktemp("refused"))
    raw = raw_of(logs, store, accumulator_decay=0.9, full_every=1)
    gate = {**raw["daily"]["gate"], "norm_growth": 1.000001}
    config = config_from_dict(raw)
    strict = config_from_dict(raw | {"daily": raw["daily"] | {"gate": gate}})
    with pytest.raises(RefusedError) as caught:
        daily(strict, 2)
    record = read_record(opened(config), day_of(2))
    assert record is not None
    return Refused(config, strict, caught.value, record)


def test_a_day_that_is_not_there_or_broken(first: First) -> None:
    error, record = first.not_ready
    assert "_SUCCESS" in str(error)
    assert error.exit_code == 75
    assert record is not None
    assert (record.status, record.state) == ("not ready", "wait")
    broken, record = first.broken
    assert re.search(r"click.*7\.0.*daily\.skip", str(broken))
    assert record is not None
    assert (record.status, record.state) == ("broken", "check")
    assert first.current_then is None
    assert [r.status for r in first.records] == ["published"]
    assert any("restarts: its logs have changed" in line for line in first.said)


def test_every_day_is_trained_on_once(four_days: tuple[Config, list[Record]]) -> None:
    _, (first, second, third) = four_days
    assert [r.date for r in (first, second, third)] == [day_of(1), day_of(2), day_of(3)]
    assert [r.status for r in (first, second, third)] == ["published"] * 3
    assert [r.parent for r in (first, second, third)] == [None, first.version, second.version]
    assert first.trained is not None
    assert first.trained.days == {"2026-01-01": None, "2026-01-02": ["click"]}
    assert first.trained.rows + first.trained.held_out == 2 * ROWS
    for record, before in ((second, 1), (third, 2)):
        trained = record.trained
        assert trained is not None
        # the buys of the day before are final now
        assert trained.days == {str(day_of(before)): ["buy"], str(record.date): ["click"]}
        assert trained.rows + trained.held_out == 2 * ROWS
        assert 0 < trained.held_out < ROWS
        ids = trained.ids["user"]
        parts = [ids[part]["lookups"] for part in ("known", "admitted", "below", "outdated", "no_room")]
        assert sum(parts) == ROWS
        assert ids["evicted"]["ids"] > 0


def test_the_version_before_is_scored_on_labels_it_never_saw(four_days: tuple[Config, list[Record]]) -> None:
    _, (first, second, third) = four_days
    assert first.next_day == []
    # the first version had the clicks of the day before the second one, so nobody could be scored on its buys
    assert [(n.day, n.version, n.rows) for n in second.next_day] == [(day_of(2), first.version, ROWS)]
    assert any("was removed" in note for note in second.notes)
    today, before = third.next_day
    assert (today.day, today.version, today.rows) == (day_of(3), second.version, ROWS)
    assert (before.day, before.version, before.rows) == (day_of(2), first.version, ROWS)
    assert today.metrics["eval"]["click"]["count"] == ROWS
    assert today.metrics["eval"]["buy"]["count"] == 0
    assert before.metrics["eval"]["click"]["count"] == 0
    assert before.metrics["eval"]["buy"]["count"] > 0


def test_older_versions_are_measured_on_the_same_held_out_rows(four_days: tuple[Config, list[Record]]) -> None:
    _, (first, second, third) = four_days
    assert first.comparisons == []
    for record in (second, third):
        (found,) = record.comparisons
        assert (found.name, found.version) == ("first", first.version)
        assert record.gate is not None
        counts = {task: report["count"] for task, report in record.gate.candidate["eval"].items()}
        assert {task: report["count"] for task, report in found.metrics["eval"].items()} == counts
        assert "scenarios" not in found.metrics
    # it is the version that the second day starts from, which is measured only once
    assert second.gate is not None
    assert second.gate.base is not None
    assert second.comparisons[0].metrics["eval"] == second.gate.base["eval"]


def test_deltas_hold_what_changed(four_days: tuple[Config, list[Record]]) -> None:
    config, records = four_days
    store = opened(config)
    kinds = [r.written.kind for r in records if r.written]
    assert kinds == ["full", "delta", "delta"]
    assert versions.verify(store) == []
    last = records[-1].written
    assert last is not None
    assert 0 < last.rows["user"] < 64
    assert last.expired["user"] == records[-1].trained.ids["user"]["evicted"]["ids"]  # type: ignore[union-attr]


def test_base_and_deltas_are_what_whole_versions_hold(four_days: tuple[Config, list[Record]], refused: Refused) -> None:
    config, records = four_days
    delta, whole = records[1], refused.record
    assert delta.date == whole.date
    assert whole.written is not None
    assert whole.written.kind == "full"
    assert versions.show(opened(config), delta.version).base is not None
    assert same(contents(opened(config), delta.version), contents(opened(refused.config), whole.version))


def test_a_done_day_is_done(four_days: tuple[Config, list[Record]]) -> None:
    config, records = four_days
    said: list[str] = []
    before = len(versions.list_versions(opened(config)))
    assert daily(config, 3, said) == [records[-1]]
    assert said == [f"{day_of(3)} is already done: version {records[-1].version}"]
    assert len(versions.list_versions(opened(config))) == before
    assert dry_run(config, DailyRequest(day_of(3)))[0]["note"].startswith(f"{day_of(3)} is already done: version ")
    with pytest.raises(ConfigError, match=r"2025-12-20 lies before 2026-01-01, the first day of store"):
        run_daily(config, DailyRequest(day_of(-12)), address=None, on_event=lambda item: None)
    assert daily(config, 0, said := []) == []  # the first version learned it beside its own day
    assert said[0].startswith(f"{day_of(0)} is already done: version ")
    assert daily(config, 1, said := [], first=day_of(0)) == [records[0]]
    assert [line.partition(":")[0] for line in said] == [f"{day} is already done" for day in (day_of(0), day_of(1))]


def test_a_done_day_of_another_configuration(four_days: tuple[Config, list[Record]], logs: Path) -> None:
    config, records = four_days
    raw = raw_of(logs, Path(opened(config).path), accumulator_decay=0.8)
    assert daily(config_from_dict(raw), 3, said := []) == [records[-1]]
    assert said == [
        f"{day_of(3)} is already done: version {records[-1].version}; it was trained with another configuration "
        f"(daily.accumulator_decay was 0.9 and is now 0.8); to redo it, run: raymtl daily --date {day_of(3)} --force"
    ]


def test_a_refused_candidate_is_kept_aside(refused: Refused) -> None:
    assert re.search(r"refuses the candidate: .*norm", str(refused.error))
    assert refused.error.exit_code == 70
    store, record = opened(refused.config), refused.record
    first = daily(refused.config, 1)[0]
    assert record.version is not None
    assert versions.current(store) == first.version
    assert Path(store.root, "versions", record.version, "manifest.json").exists()
    with pytest.raises(RefusedError):  # the verdict stays, and nothing is trained for it
        daily(refused.strict, 2)
    left_out, third = dry_run(refused.config, DailyRequest(day_of(3)))
    assert left_out["note"].startswith(
        f"{day_of(2)} is skipped: its candidate was refused; to do it, run: raymtl daily"
    )
    assert (third["day"], third["starts_from"]) == (str(day_of(3)), first.version)
    assert (third["rows"], third["training_rows"]) == (
        ROWS,
        2 * ROWS,
    )  # with the buys of the day before the refused one


def test_an_old_day_is_not_done_alone(four_days: tuple[Config, list[Record]]) -> None:
    config, _ = four_days
    with pytest.raises(ConfigError, match=rf"{day_of(3)}.*--from {day_of(2)} --to {day_of(3)} --force"):
        daily(config, 2, force=True)


def test_logs_that_begin_too_late(logs: Path, tmp_path: Path) -> None:
    config = config_from_dict(daily_raw(logs, tmp_path / "store", bootstrap_days=7))
    with pytest.raises(ConfigError, match=r"the logs start on 2026-01-01; set daily\.bootstrap_days to 2"):
        daily(config, 1)


def test_one_job_at_a_time(logs: Path, tmp_path: Path) -> None:
    config = config_from_dict(daily_raw(logs, tmp_path / "store"))
    with (
        acquire(opened(config), "daily 2026-01-01"),
        pytest.raises(TryLaterError, match="for `daily 2026-01-01`"),
    ):
        daily(config, 1)


def test_a_configuration_without_the_section(logs: Path, tmp_path: Path) -> None:
    raw = daily_raw(logs, tmp_path / "store")
    del raw["daily"]
    with pytest.raises(ConfigError, match=r"daily\.store"):
        daily(config_from_dict(raw), 1)


def test_killed_in_the_middle_it_goes_on(
    four_days: tuple[Config, list[Record]], first_version: Path, logs: Path, tmp_path: Path
) -> None:
    """A worker, then the driver; `tests/benchmarks/daily/kills.py` kills at many random moments."""
    store = Store.open(str(begun(first_version, tmp_path)))
    file, log = tmp_path / "config.yaml", tmp_path / "log"
    file.write_text(yaml.safe_dump(raw_of(logs, Path(store.path), accumulator_decay=0.9), sort_keys=False))
    arguments = ["--date", str(day_of(2))]
    with log.open("wb") as out:
        process = subprocess.Popen(command(str(file), *arguments), stdout=out, stderr=out)
        until(process, log, f"{day_of(2)}: train")
        worker = train_worker(process.pid)
        assert worker is not None
        worker.kill()
        until(process, log, f"{day_of(2)}: gate")  # it recovered by itself
        worker = train_worker(process.pid)
        process.kill()
        process.wait()
        if worker is not None:
            worker.wait(60)  # its Ray goes with it
    nothing_is_half(store)
    assert versions.current(store) == four_days[1][0].version
    assert run_command(["daily", "--config", str(file), *arguments]) == 0
    nothing_is_half(store)
    no_lease(store)
    killed, calm = read_record(store, day_of(2)), four_days[1][1]
    assert killed is not None
    assert (killed.status, killed.trained) == ("published", calm.trained)
    assert same(contents(store), contents(opened(four_days[0]), calm.version))
