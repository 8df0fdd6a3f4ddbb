"""A run gets to its trackers whole, whatever they do, and never waits for them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raymtl.config.base import Section
from raymtl.config.load import load_config
from raymtl.errors import ConfigError
from raymtl.telemetry.scalars import scalars
from raymtl.tracking import run_tracking
from raymtl.tracking.run_tracking import IDS, RunTracking, TrackedRun, check_packages, reason_of, track_run
from raymtl.training.rundir import RunFolder
from raymtl.training.runlog import RunLogger
from tests.helpers.small_config import SMALL
from tests.helpers.tracked import Keeper, eval_record, train_record

RUN = TrackedRun("ctr", {"train": {"epochs": 2}}, {"days.train": "2026-01-01..2026-01-03"})
STEPS = 7


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_EVERY_S", "_SOON_S", "_RETRY_S"):
        monkeypatch.setattr(run_tracking, name, 0.01)
    monkeypatch.setattr(run_tracking, "_END_S", {"finished": 2.0, "failed": 0.5, "stopped": 0.1})


def tracked(keeper: Keeper, folder: Path, said: list[str]) -> RunTracking:
    return RunTracking({"keeper": keeper}, RUN, RunFolder.open(str(folder)), said.append)


def feed(tracking: RunTracking) -> list[dict[str, Any]]:
    """A run of some steps and an evaluation; returns what the driver's listener got."""
    heard: list[dict[str, Any]] = []
    listen = tracking.listener(heard.append)
    listen({"note": "training with 1 worker"})
    for step in range(1, STEPS + 1):
        listen(train_record(step))
    listen(eval_record(STEPS))
    return heard


def test_a_run_arrives_whole_from_a_thread_of_its_own(tmp_path: Path) -> None:
    keeper, said = Keeper(), []
    tracking = tracked(keeper, tmp_path, said)
    assert len(feed(tracking)) == STEPS + 2
    tracking.add_facts({"version": "v1"})
    tracking.add_file("report.html", "<p>")
    tracking.add_file("lost.html", None)
    tracking.close("finished")
    assert said == []
    assert keeper.names == ["ctr"]
    assert keeper.config == [RUN.config]
    assert keeper.facts == {"days.train": "2026-01-01..2026-01-03", "version": "v1"}
    assert keeper.files == {"report.html": "<p>"}
    assert keeper.values["train/loss/click"] == {step: 0.5 + step / 100 for step in range(1, STEPS + 1)}
    assert keeper.values["eval/click/auc"] == {STEPS: 0.7}
    assert keeper.outcome == "finished"
    assert keeper.threads == {"Keeper"}
    assert json.loads((tmp_path / IDS).read_text()) == {"keeper": "id-1"}


def test_the_trackers_get_what_tensorboard_gets(tmp_path: Path) -> None:
    balance = {"weights": {"click": 0.4, "buy": 0.6}, "gradient_cosine": {"click|buy": -0.2}, "gradient_conflict": 1.0}
    log = RunLogger(RunFolder.open(str(tmp_path)), None, 0)
    log.train(train_record(1, **balance))
    log.evaluation(eval_record(1))
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {tag: board.Scalars(tag)[0].value for tag in board.Tags()["scalars"]}
    assert found == pytest.approx({**scalars(train_record(1, **balance)), **scalars(eval_record(1))})
    assert {"train/weight/buy", "train/cosine/click|buy", "train/gradient_conflict", "eval/click/auc"} <= set(found)


def test_samples_that_wait_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tracking, "_EVERY_S", 60)
    keeper = Keeper()
    tracking = tracked(keeper, tmp_path, [])
    time.sleep(0.1)  # it has started, and pauses
    feed(tracking)
    tracking.close("finished")
    assert keeper.batches == [STEPS + 1]


@pytest.mark.parametrize("fails", [1, 5])
def test_a_tracker_that_comes_back_gets_everything_once(tmp_path: Path, fails: int) -> None:
    keeper, said = Keeper(fails), []
    tracking = tracked(keeper, tmp_path, said)
    feed(tracking)
    end = time.monotonic() + 5
    while keeper.calls < fails + 3 and time.monotonic() < end:
        time.sleep(0.01)
    tracking.close("finished")
    assert len(keeper.values["train/loss"]) == STEPS
    assert keeper.config == [RUN.config]
    assert keeper.outcome == "finished"
    assert len(said) == (fails > 1), said


def test_a_tracker_that_is_down_costs_one_sentence(tmp_path: Path) -> None:
    keeper, said = Keeper(fails=10**6), []
    began = time.monotonic()
    tracking = tracked(keeper, tmp_path, said)
    feed(tracking)
    time.sleep(0.1)
    tracking.close("finished")
    assert time.monotonic() - began < 1
    assert said == [
        "Keeper does not take this run (Connection refused); metrics.jsonl has every value, and raymtl keeps trying while the "
        "run lasts: check the tracker, or change train.track"
    ]


def test_what_a_tracker_refuses_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    keeper, said = Keeper(refuses_config=True), []
    tracking = tracked(keeper, tmp_path, said)
    feed(tracking)
    tracking.close("finished")
    assert len(said) == 1
    assert "(the parameter is too long)" in said[0]
    assert len(keeper.values["train/loss"]) == STEPS
    assert keeper.outcome == "finished"


@pytest.mark.parametrize(("outcome", "told"), [("failed", 1), ("stopped", 0)])
def test_a_tracker_that_hangs_is_left_behind(tmp_path: Path, outcome: Any, told: int) -> None:
    keeper, said = Keeper(hangs=True), []
    tracking = tracked(keeper, tmp_path, said)
    feed(tracking)
    began = time.monotonic()
    tracking.close(outcome)
    assert time.monotonic() - began < 1
    assert len(said) == told
    keeper.go_on()


def test_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path) -> None:
    (tmp_path / IDS).write_text('{"other": "x", "keeper": "id-7"}')
    keeper = Keeper()
    tracked(keeper, tmp_path, []).close("finished")
    assert keeper.known == ["id-7"]
    assert keeper.config == []  # MLflow refuses a second value of a parameter
    assert json.loads((tmp_path / IDS).read_text()) == {"other": "x", "keeper": "id-7"}


@pytest.mark.parametrize(("error", "outcome"), [(ConfigError("no"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_an_exception_ends_the_run_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, outcome: str
) -> None:
    keeper = Keeper()
    monkeypatch.setattr(run_tracking, "trackers_of", lambda track, folder: {"keeper": keeper})
    with (
        pytest.raises(type(error)),
        track_run(load_config(None, text=SMALL).train.track, RUN, RunFolder.open(str(tmp_path)), print),
    ):
        raise error
    assert keeper.outcome == outcome


@pytest.mark.parametrize(
    ("overrides", "spec", "sentence"),
    [
        (
            ["train.track=[wandb, mlflow]"],
            lambda name: None,
            "train.track has `mlflow`, but the package `mlflow` is missing; install it with `pip install 'raymtl[mlflow]'`, or "
            "take `mlflow` out of train.track",
        ),
        ([], lambda name: None, None),
    ],
)
def test_a_missing_package_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], spec: Callable[[str], None], sentence: str | None
) -> None:
    monkeypatch.setattr(run_tracking, "find_spec", spec)
    config = load_config(None, overrides, text=SMALL)
    if sentence is None:
        check_packages(config)
        return
    with pytest.raises(ConfigError) as error:
        check_packages(config)
    assert str(error.value) == sentence


def test_a_folder_of_files_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()  # as `wandb` itself makes it
    monkeypatch.setattr(run_tracking, "find_spec", lambda name: namespace(tmp_path / name))
    with pytest.raises(ConfigError, match="the package `wandb` is missing"):
        check_packages(load_config(None, ["train.track=[wandb]"], text=SMALL))


def namespace(folder: Path) -> Any:
    from importlib.machinery import PathFinder

    return PathFinder.find_spec(folder.name, [str(folder.parent)])


def test_the_reason_is_short() -> None:
    failed = RuntimeError("API request to http://127.0.0.1:5000/api failed\nwith a page of text")
    failed.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert reason_of(failed) == "Connection refused"
    assert reason_of(RuntimeError("\n first line\nsecond")) == "first line"
    assert len(reason_of(RuntimeError("x" * 999))) == 201
    assert reason_of(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.track=[mlfow]", "train.track.mlfow is an unknown key; did you mean `mlflow`?"),
        ("train.track=[{mlflow: {}}]", "for a tracker's settings write `mlflow: {…}`"),
        ("train.track.mlflow.url=http://x", "train.track.mlflow.url is an unknown key; did you mean `uri`?"),
    ],
)
def test_a_wrong_tracker_is_one_sentence(override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [override], text=SMALL)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_names_are_short_for_sections() -> None:
    named, written = (
        load_config(None, [f"train.track={value}"], text=SMALL).train.track
        for value in ("[mlflow, wandb]", "{wandb: {}, mlflow: {}}")
    )
    assert named == written
    assert named.names == ["mlflow", "wandb"]
    assert isinstance(named.mlflow, Section)
