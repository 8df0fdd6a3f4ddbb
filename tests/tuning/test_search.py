"""The course of a search, with trials that train nothing: phases, stops, a new start out of the records."""

import math
from pathlib import Path
from typing import Any

import pytest

from raymtl.errors import CheckpointError
from raymtl.training.rundir import RunFolder
from raymtl.tuning.objective import area
from raymtl.tuning.recommendation import chance_gain, gains, recommended
from raymtl.tuning.result import rows_of, summary
from raymtl.tuning.search import SearchFinished
from raymtl.tuning.trial_store import Trial
from tests.helpers.simulated_search import TOTAL, metrics, open_search, run, train

LR = "train.dense_optimizer.lr"
SPACE = {LR: {"log_uniform": [0.0001, 1]}}


def lr_of(trial: Trial) -> float:
    return trial.config["train"]["dense_optimizer"]["lr"]


def peak(trial: Trial, rows: int) -> tuple[float, float]:
    """Best at a rate of .03, a little better with the seed."""
    auc = 0.8 - 0.05 * abs(math.log10(lr_of(trial) / 0.03)) + 0.001 * (trial.seed % 3)
    return auc, auc - 0.1


def test_default_first_then_the_search_then_both_again_with_fresh_seeds(tmp_path: Path) -> None:
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 12, "repeats": 2})
    run(search, peak, at_a_time=2)
    trials = list(search.trial_store.trials.values())
    assert [t.kind for t in trials] == ["default"] + ["search"] * 11 + ["repeat"] * 4
    assert all(t.status == "finished" for t in trials)
    best = search.best(trials[:12])
    assert best is not None
    assert abs(math.log10(lr_of(best) / 0.03)) < 0.35, "a region of an eighth of the range is found in 12 trials"
    repeats = trials[12:]
    assert [(t.of, t.seed) for t in repeats] == [(0, 1), (best.number, 1), (0, 2), (best.number, 2)]
    assert all(t.config["train"]["seed"] == t.config["data"]["shuffle"]["seed"] == t.seed for t in repeats)
    assert all(lr_of(t) == lr_of(best) for t in repeats if t.of == best.number)
    [gain] = gains(search)
    expected = peak(best, TOTAL)[0] - peak(trials[0], TOTAL)[0]
    assert gain["gain"] == pytest.approx(expected)
    assert gain["beyond_noise"]
    assert recommended(search, [gain]) is best
    assert search.is_over()


def judged(folder: Path, values: dict[tuple[int | None, int], tuple[float, float]], **tune: Any) -> str:
    """What is recommended of two trials: click and buy by (repeated trial, seed), None for the trials themselves."""
    space = {LR: {"choice": [0.001, 0.1]}}
    search = open_search(folder, {"space": space, "sampler": {"type": "grid"}, "max_trials": 2, "repeats": 2, **tune})
    run(search, lambda t, _: values[(t.of, t.number if t.of is None else t.seed)])
    chosen = recommended(search, gains(search))
    assert chosen is not None
    return chosen.kind


@pytest.mark.parametrize(
    ("repeats", "buy", "kind"),
    [
        ([(0.700, 0.720), (0.710, 0.731)], 0.5, "search"),  # .020 and .021 better
        ([(0.700, 0.720), (0.710, 0.702)], 0.5, "default"),
        ([(0.720, 0.700), (0.731, 0.710)], 0.5, "default"),  # worse, though its own run led
        ([(0.700, 0.720), (0.710, 0.731)], 0.38, "default"),  # breaks its limit over the seeds
    ],
)
def test_the_best_trial_is_recommended_only_beyond_chance(
    tmp_path: Path, repeats: list[tuple[float, float]], buy: float, kind: str
) -> None:
    values: dict[tuple[int | None, int], tuple[float, float]] = {(None, 0): (0.7, 0.5), (None, 1): (0.8, 0.5)}
    for seed, (default, best) in enumerate(repeats, start=1):
        values |= {(0, seed): (default, 0.5), (1, seed): (best, buy)}
    objective = {"metric": "click.auc", "subject_to": {"buy.auc": {"at_least": 0.4}}}
    assert judged(tmp_path, values, objective=objective) == kind


@pytest.mark.parametrize(("lead", "kind"), [(0.082, "default"), (0.084, "search")])
def test_one_run_each_must_lead_by_more_than_chance(tmp_path: Path, lead: float, kind: str) -> None:
    """The others are .60 ± .01 and .62, s = .01291; with five trials t(.99, 3) · √2 · s = 4.540703 · .018257 = .0829."""
    rates = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]
    values = dict(zip(rates, [0.60, 0.59, 0.60, 0.61, 0.62, 0.60 + lead], strict=True))
    tune = {"space": {LR: {"choice": rates}}, "sampler": {"type": "grid"}, "max_trials": 6, "repeats": 0}
    search = open_search(tmp_path, tune)
    run(search, lambda t, _: (values[lr_of(t)],) * 2)
    assert chance_gain(search, 0) == pytest.approx(4.540703 * math.sqrt(2) * 0.0129099, rel=1e-4)
    chosen = recommended(search, gains(search))
    assert chosen is not None
    assert chosen.kind == kind


def test_a_gain_within_the_noise_is_said_to_be_so(tmp_path: Path) -> None:
    """Best .80, .84 against default .81, .82: differences −.01, .02, mean .005, standard error .015, t(.975, 1) = 12.7062."""
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 2, "repeats": 2})
    values = {(1, 1): 0.80, (1, 2): 0.84, (0, 1): 0.81, (0, 2): 0.82}
    run(search, lambda t, _: (values.get((t.of, t.seed), 0.5 + 0.1 * t.number),) * 2)
    [gain] = gains(search)
    assert gain["gain"] == pytest.approx(0.005)
    assert gain["interval"] == pytest.approx(12.7062047 * 0.015)
    assert gain["beyond_noise"] is False
    chosen = recommended(search, gains(search))
    assert chosen is search.trial_store.default


def test_the_best_keeps_the_limits(tmp_path: Path) -> None:
    objective = {"metric": "buy.auc", "subject_to": {"click.auc": {"max_drop": 0.01}}}
    search = open_search(tmp_path, {"space": SPACE, "objective": objective, "max_trials": 10, "repeats": 0})

    def trade(trial: Trial, rows: int) -> tuple[float, float]:  # what buy gains, click loses
        gain = 0.02 * math.log10(lr_of(trial) / 0.001)
        return 0.7 - gain, 0.7 + gain

    run(search, trade)
    best = search.best(list(search.trial_store.trials.values()))
    assert best is not None
    assert best.metrics is not None
    assert best.metrics["tasks"]["click"]["auc"] >= 0.69 - 1e-9
    beyond = [t for t in search.trial_store.trials.values() if t.metrics and t.metrics["tasks"]["buy"]["auc"] > 0.71]
    assert beyond, "some trial broke the limit, and was not taken"


def test_structure_first_then_the_couplings_with_the_best_one(tmp_path: Path) -> None:
    tune = {
        "space": SPACE,
        "presets": ["loss_weights", "alpha"],
        "max_trials": 12,
        "structure_trials": 6,
        "repeats": 0,
    }
    search = open_search(tmp_path, tune)
    run(search, peak, at_a_time=2)
    kinds = [t.kind for t in search.trial_store.trials.values()]
    assert kinds == ["default"] + ["structure"] * 5 + ["search"] * 6
    structures = search.trial_store.of_kind("structure")
    assert all(set(t.params) == {LR} for t in structures)
    best = search.best(search.trial_store.of_kind("default", "structure"))
    assert best is not None
    assert {lr_of(t) for t in search.trial_store.of_kind("search")} == {lr_of(best)}
    assert all("weight_ratio.buy" in t.params for t in search.trial_store.of_kind("search"))


def test_asha_lets_the_best_half_pass_each_rung(tmp_path: Path) -> None:
    stopping = {"type": "asha", "first_rung_rows": 100, "reduction": 2}
    search = open_search(
        tmp_path, {"space": SPACE, "stopping": stopping, "max_trials": 9, "repeats": 0, "sampler": {"type": "random"}}
    )
    run(search, peak, rungs=(100, 200, 400, 800, TOTAL))
    trials = search.trial_store.of_kind("search")
    stopped = [t for t in trials if t.status == "stopped"]
    finished = [t for t in trials if t.status == "finished"]
    assert len(stopped) >= 3
    assert all(t.rows < TOTAL and t.reason for t in stopped)
    assert finished
    assert max(peak(t, 0) for t in stopped) < max(peak(t, 0) for t in finished)
    assert search.trial_store.trials[0].status == "finished", "the default is trained to its end, whatever it is worth"
    chosen = search.best(list(search.trial_store.trials.values()))
    assert chosen is not None
    assert chosen.status == "finished"


def test_the_median_stops_what_lags_behind(tmp_path: Path) -> None:
    stopping = {"type": "median", "every_rows": 100, "startup_trials": 3}
    search = open_search(tmp_path, {"space": SPACE, "stopping": stopping, "max_trials": 10, "repeats": 0})
    run(search, peak, rungs=(100, 200, TOTAL))
    assert any(t.status == "stopped" for t in search.trial_store.of_kind("search"))


def test_a_new_start_keeps_what_ended_and_takes_up_what_had_not(tmp_path: Path) -> None:
    tune = {"space": SPACE, "max_trials": 6, "repeats": 1}
    calm = open_search(tmp_path / "calm", tune)
    run(calm, peak)
    first = open_search(tmp_path / "killed", tune)
    for _ in range(2):
        trial = first.next()
        assert trial is not None
        train(first, trial, peak)
    lost = [first.next(), first.next()]  # under way when the driver dies
    assert all(lost)
    second = open_search(tmp_path / "killed", tune)
    taken_up = [second.next(), second.next()]
    assert [t.number for t in taken_up if t] == [t.number for t in lost if t] == [2, 3]
    assert [t.starts for t in taken_up if t] == [2, 2]
    for trial in taken_up:
        assert trial is not None
        train(second, trial, peak)
    run(second, peak)
    assert len(second.trial_store.trials) == len(calm.trial_store.trials)
    assert [t.params for t in second.trial_store.trials.values()][:2] == [
        t.params for t in calm.trial_store.trials.values()
    ][:2]
    assert [t.starts for t in second.trial_store.trials.values()] == [1, 1, 2, 2] + [1] * 4
    assert open_search(tmp_path / "killed", tune).is_over()


def test_crashes_and_broken_trials_are_recorded_and_end_nothing(tmp_path: Path) -> None:
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 4, "repeats": 0})
    for n in range(4):
        trial = search.next()
        assert trial is not None
        if n == 1:
            search.reported({"number": trial.number, "failed": "the loss of task `click` became nan"})
            search.ended(trial.number, crashed=False)
        elif n == 2:
            search.ended(trial.number, crashed=True)
        else:
            train(search, trial, peak)
    with pytest.raises(SearchFinished):
        search.next()
    found = summary(search, {}, RunFolder.open(str(tmp_path)))
    assert found["trials"] == {"finished": 2, "stopped": 0, "failed": 2, "running": 0}
    assert found["failures"] == {1: "the loss of task `click` became nan", 2: "its process died twice"}
    rows = rows_of(search)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed", "finished"]
    assert rows[1][f"field.{LR}"] == lr_of(search.trial_store.trials[1])


def test_values_that_do_not_go_together_cost_no_training(tmp_path: Path) -> None:
    """Either kind of expert may be left out, both together leave none."""
    tune = {
        "space": {f"model.trunk.{kind}_experts": {"choice": [0, 1]} for kind in ("task", "shared")},
        "sampler": {"type": "grid"},
        "max_trials": 8,
        "repeats": 0,
    }
    search = open_search(tmp_path, tune, model={"preset": "ple"})
    run(search, peak)
    trials = search.trial_store.trials.values()
    [broken] = [t for t in trials if t.status == "failed"]
    assert broken.params == {"model.trunk.task_experts": "0", "model.trunk.shared_experts": "0"}
    assert broken.reason is not None
    assert "no experts at all" in broken.reason
    assert broken.starts == 0
    assert sum(t.status == "finished" for t in trials) == 4, "the default, and the three that go together"


def test_no_trial_begins_after_the_budget(tmp_path: Path) -> None:
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 50, "time_budget_s": 1e-6, "repeats": 1})
    run(search, peak)
    assert [t.kind for t in search.trial_store.trials.values()] == ["default"], (
        "with the default alone there is nothing to repeat"
    )


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 2})
    search.next()
    (tmp_path / "trials" / "0000.json").write_text('{"number": 0')
    with pytest.raises(CheckpointError, match=r"trials/0000.json.*remove it"):
        open_search(tmp_path, {"space": SPACE, "max_trials": 2})


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_a_front_is_found_faster_than_at_random(tmp_path: Path, kind: str) -> None:
    """A planted conflict with a nuisance: click wants a low rate, buy a high one, both want the other field at .5."""
    space = {LR: {"log_uniform": [0.0001, 1]}, "train.sparse_optimizer.lr": {"log_uniform": [0.0001, 1]}}

    def conflict(trial: Trial, rows: int) -> tuple[float, float]:
        at = (math.log10(lr_of(trial)) + 4) / 4
        off = abs(math.log10(trial.config["train"]["sparse_optimizer"]["lr"]) + 1) / 4
        return 0.9 - 0.2 * at**2 - 0.4 * off, 0.9 - 0.2 * (1 - at) ** 2 - 0.4 * off

    def reached(sampler: dict[str, Any], trials: int, seed: int) -> float:
        tune = {
            "space": space,
            "objective": {"pareto": ["click.auc", "buy.auc"]},
            "sampler": sampler,
            "max_trials": trials,
            "repeats": 0,
            "seed": seed,
        }
        search = open_search(tmp_path / f"{sampler['type']}{trials}{seed}", tune)
        run(search, conflict, at_a_time=2)
        points = [search.evaluator.values(t.metrics) or [] for t in search.trial_store.trials.values()]
        return area(points, (0.5, 0.5))

    sampler = {"tpe": {"type": "tpe", "startup_trials": 6}, "nsga2": {"type": "nsga2", "population": 6}}[kind]
    half = sum(reached(sampler, 20, seed) for seed in range(3))
    random = sum(reached({"type": "random"}, 40, seed) for seed in range(3))
    assert half >= 0.9 * random


def test_metrics_of_a_report_are_those_that_count(tmp_path: Path) -> None:
    """An evaluation that is told twice, as after a kill, counts once."""
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 2})
    trial = search.next()
    assert trial is not None
    for auc in (0.7, 0.9):
        search.reported({"number": 0, "evaluation": {"rows": 10, "metrics": metrics(auc, auc)}})
    assert len(trial.history) == 1
    assert trial.metrics is not None
    assert trial.metrics["tasks"]["click"]["auc"] == 0.7


def test_an_outage_of_the_storage_stops_the_search_and_blames_no_trial(tmp_path: Path) -> None:
    tune = {"space": SPACE, "max_trials": 4, "repeats": 0}
    search = open_search(tmp_path, tune)
    first, second = search.next(), search.next()
    assert first is not None
    assert second is not None
    train(search, first, peak)
    search.reported({"number": second.number, "outage": "the storage does not answer"})
    search.ended(second.number, crashed=False)
    assert search.outage == "the storage does not answer"
    with pytest.raises(SearchFinished):
        search.next()
    assert search.trial_store.trials[1].status == "running"
    later = open_search(tmp_path, tune)
    run(later, peak)
    assert [t.status for t in later.trial_store.trials.values()] == ["finished"] * 4


def test_a_configuration_that_cannot_be_trained_ends_the_search(tmp_path: Path) -> None:
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 9})
    trial = search.next()
    assert trial is not None
    search.reported({"number": 0, "failed": "the version does not fit"})
    search.ended(0, crashed=False)
    assert search.default_failed == "the version does not fit"
    with pytest.raises(SearchFinished):
        search.next()
    assert search.is_over()


def test_failed_trials_and_nan_teach_the_sampler_nothing(tmp_path: Path) -> None:
    """A trial that scores well and breaks afterwards is no example to follow, and NaN would end Optuna."""
    search = open_search(tmp_path, {"space": SPACE, "max_trials": 14, "repeats": 0})

    def run_one(trial: Trial) -> None:
        value = float("nan") if trial.number % 3 == 1 else peak(trial, TOTAL)[0]
        search.reported({"number": trial.number, "evaluation": {"rows": 10, "metrics": metrics(0.99, 0.99)}})
        if trial.number % 3 == 2:
            search.reported({"number": trial.number, "failed": "the loss became nan"})
        else:
            search.reported({"number": trial.number, "evaluation": {"rows": TOTAL, "metrics": metrics(value, value)}})
            search.reported({"number": trial.number, "ended": True})
        search.ended(trial.number, crashed=False)

    for _ in range(14):
        trial = search.next()
        assert trial is not None
        run_one(trial)
    with pytest.raises(SearchFinished):
        search.next()
    trials = search.trial_store.trials.values()
    assert len(trials) == 14
    assert {t.status for t in trials if t.number % 3} == {"failed"}
    best = search.best(list(trials))
    assert best is not None
    assert best.status == "finished"
