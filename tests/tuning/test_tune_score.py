"""The search for a formula: what sessions are, what is found, off-policy estimates by hand, and the page."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymtl.cli.main import run_command
from raymtl.config.load import config_from_dict
from raymtl.config.score import Score, WeightedSum
from raymtl.errors import ConfigError, DataError
from raymtl.objectives.metrics.evaluate import EvalMetrics
from raymtl.tuning.score.estimate import off_policy
from raymtl.tuning.score.page import score_page
from raymtl.tuning.score.run import _chosen, _result
from raymtl.tuning.score.search import best_of, pareto_front, search
from raymtl.tuning.score.sessions import Sessions, key_columns, read_sessions
from tests.benchmarks.tuning.score import FORMULAS, formula, world
from tests.helpers.served_version import DAYS, publish_version, served_config, write_logs
from tests.helpers.small_config import small_raw

torch.set_num_threads(1)
SCORE: dict[str, Any] = {
    "formulas": {"value": {"type": "product", "powers": {"click": 1, "buy": 1}}},
    "gain": {"click": 1, "buy": 10},
    "at": 2,
}


def config(**score: Any) -> Any:
    raw = small_raw()
    raw["data"] |= {"group": "user", "request": "request"}
    return config_from_dict(raw | {"score": SCORE | score})


def table(rows: int = 400, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    user = random.integers(0, 30, rows)
    click = (random.random(rows) < 0.4).astype(float)
    return pa.table({
        "user": pa.array([f"u{n}" for n in user]),
        "request": random.integers(0, 4, rows),
        "click": pa.array(click, mask=random.random(rows) < 0.05),
        "buy": click * (random.random(rows) < 0.3),
        "pred_click": random.random(rows).astype(np.float32),
        "pred_buy": random.random(rows).astype(np.float32),
    })  # fmt: skip


def test_the_value_is_that_of_an_evaluation() -> None:
    settings = config()
    rows = table()
    sessions, explored = read_sessions(rows, settings, settings.score, ["click", "buy"])
    assert explored is None
    metrics = EvalMetrics(settings.tasks, [], with_requests=True, score=settings.score)
    labels = torch.from_numpy(np.stack([rows.column(n).to_numpy(zero_copy_only=False) for n in ("click", "buy")], 1))
    scores = torch.from_numpy(rows.column("pred_click").to_numpy()) * torch.from_numpy(
        rows.column("pred_buy").to_numpy()
    )
    metrics.update(
        torch.zeros(len(rows), 2),
        labels.float(),
        ~labels.isnan(),
        torch.ones(len(rows)),
        torch.ones(len(rows), dtype=torch.bool),
        group=torch.tensor([int(name[1:]) for name in rows.column("user").to_pylist()]),
        request=torch.from_numpy(rows.column("request").to_numpy()),
        scores=scores.unsqueeze(1),
    )
    report = metrics.compute()["scores"]["value"]
    values = sessions.values(settings.score.formulas["value"]) @ sessions.weights
    assert sessions.count == report["count"]
    assert sessions.mean(values)[0] == pytest.approx(report["value"], rel=1e-9)


def test_weights_of_rows_count_as_in_an_evaluation() -> None:
    raw = small_raw()
    raw["data"] |= {"group": "user", "request": "request", "weight": "w"}
    settings = config_from_dict(raw | {"score": SCORE})
    assert key_columns(settings, settings.score) == ["request", "user", "click", "buy", "w"]
    rows = table()
    weight = np.random.default_rng(1).integers(0, 4, len(rows)).astype(np.float64)
    rows = rows.append_column("w", pa.array(weight, mask=weight == 3))
    weight[weight == 3] = 0
    sessions, _ = read_sessions(rows, settings, settings.score, ["click", "buy"])
    labels = torch.from_numpy(np.stack([rows.column(n).to_numpy(zero_copy_only=False) for n in ("click", "buy")], 1))
    metrics = EvalMetrics(settings.tasks, [], with_requests=True, score=settings.score)
    metrics.update(
        torch.zeros(len(rows), 2),
        labels.float(),
        ~labels.isnan(),
        torch.from_numpy(weight),
        torch.ones(len(rows), dtype=torch.bool),
        group=torch.tensor([int(name[1:]) for name in rows.column("user").to_pylist()]),
        request=torch.from_numpy(rows.column("request").to_numpy()),
        scores=torch.from_numpy(rows.column("pred_click").to_numpy().copy()).unsqueeze(1),
    )
    report = metrics.compute()["scores"]["value"]
    spec = WeightedSum(type="sum", weights={"click": 1.0})
    value, half = sessions.mean(sessions.values(spec) @ sessions.weights)
    assert (sessions.count, value) == (report["count"], pytest.approx(report["value"], rel=1e-6))
    low, high = report["intervals"]["value"]
    assert half == pytest.approx((high - low) / 2, rel=0.05)  # an evaluation has it on the scale of ratios
    trials, _ = search(settings.score.formulas["value"], sessions, 10, seed=0)
    first = sessions.mean(sessions.values(trials[0].formula) @ sessions.weights)[0]
    assert trials[0].value == pytest.approx(first, rel=1e-12)
    wrong = rows.set_column(rows.column_names.index("w"), "w", pa.array(np.where(weight == 2, -2.0, weight)))
    with pytest.raises(
        DataError, match=r"column `w` \(data.weight\) has -2.0 in row \d+; expected a finite number ≥ 0"
    ):
        read_sessions(wrong, settings, settings.score, ["click", "buy"])


def test_a_user_is_in_one_half() -> None:
    settings = config()
    sessions, _ = read_sessions(table(), settings, settings.score, ["click", "buy"])
    fit, judge = sessions.halves(0)
    assert (fit.count + judge.count, fit.users + judge.users) == (sessions.count, sessions.users)
    assert abs(fit.users - judge.users) <= 1
    assert sorted(torch.cat([fit.outputs["click"], judge.outputs["click"]]).tolist()) == sorted(
        sessions.outputs["click"].tolist()
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_found_is_better_on_other_users(name: str) -> None:
    sessions, gain = world(120, 5, 20, seed=1, noise=0.1)
    half = torch.arange(sessions.users) % 2 == 0
    fit, judge = sessions.part(half[sessions.user]), sessions.part(~half[sessions.user])
    true = gain[~half[sessions.user][sessions.lists]]
    trials, _ = search(formula(name), fit, 80, seed=0)
    assert len(trials) == 80
    assert trials[0].formula == formula(name)
    worth = [float((judge.shares(spec) * true).sum()) for spec in (best_of(trials).formula, formula(name))]
    assert worth[0] > worth[1]
    again, _ = search(formula(name), fit, 80, seed=0)
    assert [trial.formula for trial in again] == [trial.formula for trial in trials]


def test_no_trial_beats_one_of_the_front() -> None:
    sessions, _ = world(60, 4, 10, seed=0, noise=0.1)
    trials, _ = search(formula("product"), sessions, 60, seed=0)
    front = pareto_front(trials)
    values = {trial.by_task for trial in front}
    tried = {trial.by_task for trial in trials}
    expected = {a for a in tried if not any(b != a and all(x >= y for x, y in zip(b, a, strict=True)) for b in tried)}
    assert values == expected
    assert [trial.by_task for trial in front] == sorted(values, reverse=True)


def test_a_formula_of_one_output_has_nothing_to_search() -> None:
    sessions, _ = world(10, 2, 5, seed=0, noise=0.1)
    with pytest.raises(ConfigError, match="one output, so its powers cannot change the order"):
        search(formula("product").model_copy(update={"powers": {"click": 1.0}}), sessions, 20, seed=0)


@pytest.mark.parametrize("key", ["powers", "weights"])
def test_an_output_with_a_0_stays_out(key: str) -> None:
    sessions, _ = world(40, 3, 8, seed=0, noise=0.1)
    name = {"powers": "product", "weights": "sum"}[key]
    sessions = replace(sessions, outputs=sessions.outputs | {"hide": torch.rand(len(sessions.lists))})
    start = formula(name)
    start = start.model_copy(update={key: {"hide": 0.0} | getattr(start, key)})
    trials, _ = search(start, sessions, 30, seed=0)
    found = [getattr(trial.formula, key) for trial in trials]
    assert {numbers["hide"] for numbers in found} == {0.0}
    assert len({numbers["buy"] for numbers in found}) > 20
    with pytest.raises(ConfigError, match="give another output a number other than 0"):
        search(start.model_copy(update={key: {"hide": 0.0, "click": 1.0}}), sessions, 20, seed=0)


def test_a_conditional_label_is_expected_where_its_condition_happens() -> None:
    sessions = small_slice()
    assert [*sessions.expected] == ["click", "buy"]
    conditional = replace(sessions, given={"buy": "click"})
    assert [*conditional.expected] == ["click", "buy · click"]
    np.testing.assert_allclose(conditional.expected["buy · click"], [0.09, 0.05, 0.01, 0.02, 0.08], rtol=1e-6)
    by_click = WeightedSum(type="sum", weights={"click": 1.0})
    predicted = [p + 20 * 0.1 * p for p in (0.9, 0.5, 0.2, 0.8)]
    expected = [
        predicted[0] + (1 - predicted[0]) / 0.5 + predicted[1],
        predicted[2] + (21 - predicted[2]) / 0.5 + predicted[3],
    ]
    np.testing.assert_allclose(off_policy(conditional, by_click).by_list["DR"], expected, rtol=1e-6)
    flipped = replace(conditional, outputs=conditional.outputs | {"buy": torch.tensor([0.1, 0.9, 0.1, 0.9, 0.1])})
    order = flipped.shares(WeightedSum(type="sum", weights={"buy · click": 1.0}))
    assert order.tolist() == [1, 1, 0, 1, 1]


def test_off_policy_weighs_the_lists() -> None:
    sessions = replace(small_slice(), row_weight=torch.tensor([1.0, 3.0, 2.0, 6.0, 6.0]).double())
    assert sessions.weight.tolist() == [2, 6]
    found = off_policy(sessions, WeightedSum(type="sum", weights={"click": 1.0}))
    assert sessions.mean(found.by_list["IPS"])[0] == pytest.approx((2 * 2 + 6 * 42) / 8)
    assert sessions.mean(found.by_list["SNIPS"])[0] == pytest.approx((2 * 2 + 6 * 42) / (2 * 2 + 6 * 2) * 2)
    assert found.effective_rows == pytest.approx((4 + 12) ** 2 / (4**2 + 12**2))


def test_a_task_may_have_the_name_of_an_entry() -> None:
    sessions = small_slice()
    outputs = {"best": sessions.outputs["click"], "current": sessions.outputs["buy"]}
    sessions = replace(sessions, outputs=outputs, tasks=["best", "current"])
    score = Score.model_validate(
        {"formulas": {"v": {"type": "sum", "weights": {"best": 1, "current": 2}}}, "gain": {"best": 1, "current": 20}}
    )
    trials, _ = search(score.formulas["v"], sessions, 5, seed=0)
    version: Any = SimpleNamespace(manifest=SimpleNamespace(id="1"))
    found = _result(version, score, "v", trials, 1.0, sessions, sessions, None)["formulas"]
    assert [*found] == ["current", "best", "expected gain", "best alone", "current alone"]
    assert found["current"]["formula"]["weights"] == {"best": 1, "current": 2}


def small_slice() -> Sessions:
    return Sessions(
        outputs={"click": torch.tensor([0.9, 0.5, 0.1, 0.2, 0.8]), "buy": torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1])},
        tasks=["click", "buy"],
        weights=torch.tensor([1.0, 20.0]).double(),
        labels=torch.tensor([[1.0, 0], [0, 0], [0, 0], [1, 1], [0, 0]]).double(),
        lists=torch.tensor([0, 0, 0, 1, 1]),
        user=torch.tensor([0, 1]),
        at=2,
        propensity=torch.tensor([0.5, 0.25, 0.25, 0.5, 0.4]).double(),
        shown=torch.tensor([True, False, True, True, False]),
    )


def test_off_policy_by_hand() -> None:
    sessions = small_slice()
    found = off_policy(sessions, formula("sum").model_copy(update={"weights": {"click": 1.0}}))
    ips = [1 / 0.5, 21 / 0.5]  # rows 0 and 1, and rows 3 and 4, are seen; of these 0 and 3 were shown
    model = [0.9 + 2 + (1 - 2.9) / 0.5 + 0.5 + 2, 0.2 + 2 + (21 - 2.2) / 0.5 + 0.8 + 2]
    np.testing.assert_allclose(found.by_list["IPS"], ips, rtol=1e-6)
    np.testing.assert_allclose(found.by_list["DR"], model, rtol=1e-6)
    weights = [2.0, 2.0]
    assert float(found.by_list["SNIPS"].mean()) == pytest.approx(sum(ips) / sum(weights) * 4 / 2, rel=1e-6)
    assert found.effective_rows == pytest.approx(4**2 / (2**2 + 2**2))


def test_the_estimates_are_unbiased() -> None:
    sessions, gain = world(1500, 2, 8, seed=0, noise=0.3, at=3)
    spec = formula("product")
    true = float((sessions.shares(spec) * gain).sum()) / sessions.count
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for _ in range(30):
        propensity = torch.from_numpy(random.uniform(0.2, 0.8, len(sessions.lists)))
        shown = torch.from_numpy(random.random(len(sessions.lists))) < propensity
        labels = sessions.labels * shown.unsqueeze(1)
        drawn = replace(sessions, labels=labels, propensity=propensity, shown=shown)
        for method, numbers in off_policy(drawn, spec).by_list.items():
            found.setdefault(method, []).append(float(numbers.mean()))
    on_policy = sessions.mean(sessions.values(spec) @ sessions.weights)
    assert on_policy[1] is not None
    for values in found.values():
        error = 3 * np.std(values) / 30**0.5
        assert abs(np.mean(values) - on_policy[0]) < error
        assert abs(np.mean(values) - true) < error + on_policy[1]


def test_the_slice_is_read_apart_and_checked() -> None:
    settings = config(explored={"propensity": "p", "shown": "seen"})
    assert key_columns(settings, settings.score) == ["request", "user", "click", "buy", "p", "seen"]
    rows = table()
    inside = np.arange(len(rows)) % 4 == 0
    names = {"p": pa.array(np.where(inside, 0.5, np.nan), mask=~inside), "seen": pa.array(inside)}
    for name, column in names.items():
        rows = rows.append_column(name, column)
    rows = rows.set_column(2, "click", pa.array(rows.column("click").fill_null(0)))
    logged, explored = read_sessions(rows, settings, settings.score, ["click", "buy"])
    assert explored is not None
    assert (len(explored.lists), len(logged.lists)) == (inside.sum(), (~inside).sum())
    wrong = rows.set_column(rows.column_names.index("p"), "p", pa.array(np.where(inside, 1.5, np.nan), mask=~inside))
    with pytest.raises(DataError, match=r"column `p` is 1.5 in row 0; a propensity is a probability above 0"):
        read_sessions(wrong, settings, settings.score, ["click", "buy"])


def test_what_to_search_must_be_said() -> None:
    two = Score.model_validate(SCORE | {"formulas": FORMULAS})
    with pytest.raises(ConfigError, match="set --formula to the formula to search, one of `product`"):
        _chosen(two, None)
    with pytest.raises(ConfigError, match="did you mean `product`"):
        _chosen(two, "produkt")
    with pytest.raises(ConfigError, match="no `score` section"):
        _chosen(None, None)
    with pytest.raises(ConfigError, match=r"score.gain is empty"):
        _chosen(two.model_copy(update={"gain": {}}), "product")


@pytest.mark.ray
def test_the_command(ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_logs(tmp_path)
    raw = served_config(tmp_path).model_dump(mode="json")
    publish_version(tmp_path, config_from_dict(raw | {"score": SCORE | {"at": 1}}))
    arguments = [
        "tune",
        "score",
        "--version",
        str(tmp_path / "store"),
        "--data",
        str(tmp_path / "logs"),
        "--days",
        DAYS[1],
    ]
    arguments += ["--out", str(tmp_path / "found"), "--trials", "40", "--workers", "1", "--json"]
    assert run_command(arguments) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["trials"], result["formula"]) == (40, "value")
    assert result["lists"]["fit"] + result["lists"]["judge"] > 20
    page = score_page(result)
    assert [section.title for section in page.sections] == ["Trade-off", "Formulas"]
    assert "value@1" in (tmp_path / "found" / "report.html").read_text()
    again = [
        "score",
        "--version",
        str(tmp_path / "store"),
        "--data",
        str(tmp_path / "logs"),
        "--out",
        str(tmp_path / "scores"),
    ]
    assert run_command([*again, "--formulas", str(tmp_path / "found" / "score.yaml"), "--workers", "1", "--json"]) == 0
    assert "score_value" in json.loads(capfd.readouterr().out.splitlines()[-1])["predictions"]
