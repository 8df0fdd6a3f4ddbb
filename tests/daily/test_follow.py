"""`--follow`: it runs each day as soon as it is ready, and notices what changes around it."""

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymtl.config.load import config_from_dict, load_config
from raymtl.config.root import Config
from raymtl.daily import follow as module
from raymtl.daily.day import DailyRequest
from raymtl.daily.follow import follow
from raymtl.daily.record import Record, read_record, recorded_days, write_record
from raymtl.daily.runner import run_daily
from raymtl.errors import ConfigError, DataError, RefusedError, TryLaterError
from raymtl.model_store import store as versions
from raymtl.model_store.lease import holders
from raymtl.storage.object_store import Store
from tests.helpers.daily_config import daily_config
from tests.helpers.daily_world import contents, daily_raw, day_of, same, write_day

REQUEST = DailyRequest(day_of(3))


def files_of(store: Store, day: dt.date) -> list[tuple[str, str]]:
    """Names and hashes of the files of a day's version."""
    listed = (v.manifest for v in versions.list_versions(store) if v.manifest is not None)
    return [(file.path, file.sha256) for manifest in listed if manifest.data_end == day for file in manifest.files]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_days_are_run_as_they_come_and_equal_those_of_single_commands(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.1)
    monkeypatch.setattr(module, "_IDLE_S", 0.0)  # while it waits for the last day, the workers are let go
    logs = tmp_path / "logs"
    for number in range(3):
        write_day(logs, number)
    alone = config_from_dict(daily_raw(logs, tmp_path / "alone" / "store"))
    for number in (1, 2):
        run_daily(alone, DailyRequest(day_of(number)), address=None, on_event=print)

    raw = daily_raw(logs, tmp_path / "followed" / "store")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    said: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        text = str(event.get("note", ""))
        said.append(text)
        if text.startswith(f"waiting for {day_of(3)}"):  # what comes in the meantime
            file.write_text(yaml.safe_dump(raw | {"daily": raw["daily"] | {"keep": 9}}, sort_keys=False))
            write_day(tmp_path / "new", 3)
            shutil.move(next((tmp_path / "new").iterdir()), logs)

    request = replace(REQUEST, first=day_of(1))
    follow(lambda: load_config(str(file)), request, day_of(3), address=None, on_event=on_event)
    run_daily(alone, DailyRequest(day_of(3)), address=None, on_event=print)

    stores = [Store.open(str(tmp_path / name / "store")) for name in ("alone", "followed")]
    assert [str(day) for day in recorded_days(stores[1])] == [str(day_of(n)) for n in (1, 2, 3)]
    records = [read_record(stores[1], day_of(n)) for n in (1, 2, 3)]
    assert all(r is not None and r.status == "published" and r.ended is not None for r in records)
    assert same(*(contents(store) for store in stores))
    for number in (1, 2, 3):
        alone_files, followed_files = (files_of(store, day_of(number)) for store in stores)
        assert alone_files
        assert alone_files == followed_files
    assert holders(stores[1]) == []
    assert said.count("the configuration has changed; the next day uses the new one") == 1
    assert sum(text.startswith("Published: version") for text in said) == 3
    assert said[-1] == f"all days to {day_of(3)} are done"


def watched_of(config: Config, later: list[Any]) -> tuple[Any, Callable[[], Config]]:
    """What watches a configuration that becomes those of `later`, one after the other; an exception is raised."""
    queue: list[Any] = [config, *later]

    def load() -> Config:
        found = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(found, Exception):
            raise found
        return found

    return module._Watched(load), load


def test_a_changed_configuration_is_noticed_and_a_wrong_one_ends_it_the_second_time() -> None:
    config = daily_config()
    other = config.model_copy(update={"name": "other"})
    wrong = ConfigError("data.path is missing")
    watched, _ = watched_of(config, [config, other, other, wrong, other, wrong, wrong])
    assert [watched.has_changed() for _ in range(5)] == [False, True, False, False, False]
    assert watched.config == other
    assert not watched.has_changed()
    with pytest.raises(ConfigError, match=r"data\.path is missing"):
        watched.has_changed()


def test_changed_code_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, _ = watched_of(daily_config(), [])
    assert not watched.has_changed()
    monkeypatch.setattr(module, "_code", lambda: {"raymtl/errors.py": (1, 2)})
    with pytest.raises(TryLaterError, match="has changed since this command started; rerun the same command"):
        watched.has_changed()


def test_another_store_ends_it_and_a_lost_lease_too() -> None:
    config = daily_config()
    assert config.daily is not None
    moved = config.model_copy(update={"daily": config.daily.model_copy(update={"store": "/elsewhere"})})
    watched, _ = watched_of(config, [moved])

    class Job:
        def __init__(self) -> None:
            self.config, self.lease, self.session = config, self, self

        def check_held(self) -> None:
            pass

        def close(self) -> None:
            pass

    with pytest.raises(TryLaterError, match=r"daily\.store has changed; rerun the same command"):
        module._pause(Job(), watched, 0.0)  # type: ignore[arg-type]


def followed(raw: dict[str, Any]) -> list[str]:
    said: list[str] = []
    follow(
        lambda: config_from_dict(raw),
        replace(REQUEST, first=day_of(1)),
        day_of(1),
        address=None,
        on_event=lambda event: said.append(str(event.get("note", ""))),
    )
    return said


def test_a_last_day_that_was_refused_ends_it_as_a_refusal(tmp_path: Path) -> None:
    write_day(tmp_path / "logs", 0)
    raw = daily_raw(tmp_path / "logs", tmp_path / "store")
    store = Store.open(raw["daily"]["store"])
    now = dt.datetime(2026, 1, 3, tzinfo=dt.UTC)
    refused = Record(
        date=day_of(1),
        attempt=1,
        config_hash="",
        parent=None,
        started=now,
        status="refused",
        reason="AUC fell",
        ended=now,
    )
    write_record(store, refused)
    with pytest.raises(RefusedError, match=rf"{day_of(1)}: AUC fell; no version is published\. Read .*fix the cause"):
        followed(raw)
    write_record(store, refused.model_copy(update={"status": "published"}))
    assert followed(raw) == [f"all days to {day_of(1)} are done"]


def test_a_day_that_is_marked_but_damaged_ends_it_with_a_record(tmp_path: Path) -> None:
    for number in (0, 1):
        write_day(tmp_path / "logs", number)
        (tmp_path / "logs" / f"ds={day_of(number)}" / "_SUCCESS").touch()
    damaged = next((tmp_path / "logs" / f"ds={day_of(1)}").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    raw = daily_raw(tmp_path / "logs", tmp_path / "store", ready={"marker": "_SUCCESS"})
    with pytest.raises(DataError, match=rf"{damaged.name}"):
        followed(raw)
    record = read_record(Store.open(raw["daily"]["store"]), day_of(1))
    assert record is not None
    assert record.status == "broken"
    assert damaged.name in record.reason


def test_the_command_line_excludes_what_contradicts_it(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from raymtl.cli.main import run_command

    raw = daily_raw(tmp_path / "logs", tmp_path / "store")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    for option in (["--date", "2026-01-02"], ["--force"], ["--ignore-bounds"], ["--dry-run"]):
        assert run_command(["daily", "-c", str(tmp_path / "c.yaml"), "--follow", *option]) == 64
        assert f"--follow and {option[0]} exclude each other" in " ".join(capfd.readouterr().err.split())
