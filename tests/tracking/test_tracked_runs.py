"""Real runs and days with two trackers: one keeps everything, the other one is down."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from raymtl.config.load import config_from_dict, load_config
from raymtl.daily import day as day_module
from raymtl.daily import tracking as day_tracking
from raymtl.daily.day import DailyRequest, Day
from raymtl.daily.record import Record
from raymtl.daily.runner import run_daily
from raymtl.model_store import store as versions
from raymtl.telemetry.scalars import scalars
from raymtl.tracking import run_tracking
from raymtl.tracking.tracker import Tracker
from raymtl.training import driver
from tests.helpers.daily_world import daily_raw, day_of, write_day
from tests.helpers.run_logs import DAYS, small_config, write_part
from tests.helpers.tracked import Keeper

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
DOWN = "Keeper does not take this run (Connection refused); "


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Keeper, Keeper]]:
    """The trackers of each run: one that works, and one that fails."""
    made: list[tuple[Keeper, Keeper]] = []

    def trackers(*_: Any) -> dict[str, Tracker]:
        made.append((Keeper(), Keeper(fails=10**6)))
        return dict(zip(("good", "bad"), made[-1], strict=True))

    monkeypatch.setattr(run_tracking, "_SOON_S", 0.01)
    monkeypatch.setattr(run_tracking, "trackers_of", trackers)
    monkeypatch.setattr(day_tracking, "trackers_of", trackers)
    return made


def test_a_run(ray_cluster: None, pairs: list[tuple[Keeper, Keeper]], tmp_path: Path) -> None:
    write_part(tmp_path / "logs", DAYS[0], "part-0.parquet", 333, seed=0)
    write_part(tmp_path / "logs", DAYS[1], "part-0.parquet", 77, seed=1)
    config = config_from_dict(small_config(tmp_path / "logs", tmp_path / "runs", "ctr"))
    heard: list[dict[str, Any]] = []
    result = driver.train(config, on_event=heard.append)
    assert result["status"] == "finished"
    assert sum(str(event.get("note", "")).startswith(DOWN) for event in heard) == 1
    [(keeper, _)] = pairs
    lines = [json.loads(line) for line in (tmp_path / "runs" / "ctr" / "metrics.jsonl").read_text().splitlines()]
    expected: dict[str, dict[int, float]] = {}
    for line in lines:
        for tag, value in scalars(line).items():
            expected.setdefault(tag, {})[line["step"]] = value
    assert keeper.values == expected
    assert {"train/loss/buy", "eval/click/auc"} <= set(expected)
    assert keeper.facts["days.eval"] == DAYS[1]
    assert keeper.facts["config_hash"] == result["config_hash"]
    assert keeper.config[0]["train"]["batch_size"] == 64
    assert load_config(None, text=keeper.files["config.yaml"]) == config
    assert json.loads(keeper.files["result.json"])["steps"] == result["steps"]
    assert keeper.files["report.html"].startswith("<!doctype html>")
    assert keeper.outcome == "finished"


def test_a_day(
    ray_cluster: None, pairs: list[tuple[Keeper, Keeper]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_day(tmp_path / "logs", number)
    raw = daily_raw(tmp_path / "logs", tmp_path / "store")
    raw["train"]["track"] = ["wandb"]
    config = config_from_dict(raw)
    registered, notes = [], []
    decide, killed = Day._decide, [RuntimeError("killed")]

    def killed_once(day: Day) -> None:
        if killed:
            raise killed.pop()
        decide(day)

    monkeypatch.setattr(run_tracking, "find_spec", lambda name: importlib.util.find_spec("json"))
    monkeypatch.setattr(Day, "_decide", killed_once)
    monkeypatch.setattr(
        day_module, "register_versions", lambda store, notify: registered.append(versions.current(store))
    )
    request = DailyRequest(day_of(2), day_of(1))

    def run() -> list[Record]:
        return run_daily(config, request, address=None, on_event=lambda event: notes.append(str(event.get("note", ""))))

    with pytest.raises(RuntimeError, match="killed"):
        run()
    [(first, _)] = pairs
    assert first.outcome == "failed"
    assert (len(first.values["train/loss"]) > 2, "eval/click/auc" in first.values) == (True, True)
    done = run()
    assert pairs[1][0].known == ["id-1"]
    assert pairs[1][0].facts["status"] == "published"
    assert {"config.yaml", "report.html"} <= set(pairs[1][0].files)
    assert [record.status for record in done] == ["published", "published"]
    assert sum(note.startswith(DOWN) for note in notes) == 3
    assert registered == [record.version for record in done]
    (keeper, _), record = pairs[2], done[1]
    assert keeper.names == [f"unused {record.date}"]
    assert keeper.facts["version"] == record.version
    assert keeper.facts["parent"] == record.parent == done[0].version
    assert keeper.facts["status"] == "published"
    assert keeper.outcome == "finished"
    assert {"config.yaml", "report.html"} <= set(keeper.files)
    assert record.gate is not None
    assert record.trained is not None
    assert keeper.values["eval/click/auc"] == {record.trained.steps: record.gate.candidate["eval"]["click"]["auc"]}
    assert "next_day/click/auc" in keeper.values
