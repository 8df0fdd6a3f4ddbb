"""The calibrator of a model: which outputs it changes, funnels, scenarios, and the order of rows, which Platt keeps."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from torch import Tensor

from raymtl.config.calibration import Calibration
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.objectives.algebra import logit_prod
from raymtl.objectives.calibration.calibrator import Calibrator, output_labels
from raymtl.objectives.calibration.counts import ScoreCounts
from tests.helpers.small_config import small_raw
from tests.objectives.calibration.test_fit import draw

FUNNEL = {"click": Task(), "cart": Task(parent="click"), "buy": Task(parent="cart"), "spend": Task(kind="real")}
DERIVED = {"cart_given_click": ("cart", "click"), "buy_given_cart": ("buy", "cart")}


def make(multiplies: bool = True, scenarios: int = 0, derived: bool = True, **options: Any) -> Calibrator:
    return Calibrator(Calibration(**options), FUNNEL, DERIVED if derived else {}, multiplies, scenarios)


def funnel_logits(rows: int) -> Tensor:
    """[B, 6]: click, cart, buy, spend, and the two conditional ones, of which cart and buy are products."""
    click, cart, buy, spend = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1)).unbind(1)
    of_cart = logit_prod(click, cart)
    return torch.stack([click, of_cart, logit_prod(of_cart, buy), spend, cart, buy], 1)


def test_the_maps_are_those_of_the_factors_of_a_funnel() -> None:
    calibrator = make()
    assert calibrator.columns == [0, 4, 5]
    assert list(calibrator.outputs) == ["click", "cart", "buy", "cart_given_click", "buy_given_cart"]
    calibrator.maps.copy_(torch.tensor([[[0.5, 1.0], [2.0, -1.0], [1.5, 3.0]]]))
    a = funnel_logits(200)
    found = calibrator(a, None)
    click, cart, buy = 0.5 * a[:, 0] + 1, 2 * a[:, 4] - 1, 1.5 * a[:, 5] + 3
    p = [torch.sigmoid(x.double()) for x in (click, cart, buy)]
    expected = [p[0], p[0] * p[1], p[0] * p[1] * p[2], None, p[1], p[2]]
    for column, probability in enumerate(expected):
        if probability is None:
            assert torch.equal(found[:, column], a[:, column])
        else:
            torch.testing.assert_close(torch.sigmoid(found[:, column].double()), probability, rtol=1e-5, atol=1e-7)
    assert (found[:, 0] >= found[:, 1]).all()
    assert (found[:, 1] >= found[:, 2]).all()


def test_a_calibrated_child_leaves_its_parent_alone_and_a_parent_moves_its_children() -> None:
    a = funnel_logits(50)
    child, parent = make(tasks=["buy"]), make(tasks=["click"])
    assert list(child.outputs) == ["buy", "buy_given_cart"]
    assert list(parent.outputs) == ["click", "cart", "buy"]
    for calibrator in (child, parent):
        torch.testing.assert_close(calibrator(a, None), a, rtol=1e-5, atol=1e-5)
        calibrator.maps[..., 1] = 1.0
        changed = (calibrator(a, None) - a).abs().max(0).values > 1e-3
        assert changed.nonzero().flatten().tolist() == list(calibrator.outputs.values())


def test_without_products_each_task_has_its_own_map() -> None:
    assert make(multiplies=False, derived=False).columns == [0, 1, 2]


def test_labels_of_a_conditional_output_count_where_the_condition_happened() -> None:
    labels = torch.tensor([[1.0, 1, 0, 5], [0, 0, 0, 5], [1, 0, 0, 5], [1, 1, 1, 5]])
    observed = torch.tensor([[True] * 4, [True] * 4, [True, False, True, True], [False, True, True, True]])
    y, seen = output_labels(labels, observed, list(FUNNEL), DERIVED)
    assert seen[:, 4].tolist() == [True, False, False, False]
    assert seen[:, 5].tolist() == [True, False, False, True]
    assert y[:, 4].tolist() == [1, 0, 0, 1]
    assert y[:, 5].tolist() == [0, 0, 0, 1]


def fitted(by: str, method: str = "platt") -> tuple[Calibrator, Tensor, Tensor, Tensor]:
    """A calibrator of one task over two scenarios, the first of which predicts too little and the second too much."""
    logits, labels = draw(60_000, slope=0.7, intercept=0.5, seed=11)
    other, more = draw(60_000, slope=1.3, intercept=-0.9, seed=12)
    scenario = torch.arange(120_000) // 60_000
    a, y = torch.cat([logits, other]).float().unsqueeze(1), torch.cat([labels, more]).float()
    options = Calibration(method=method, by=by, prior_positives=50)
    calibrator = Calibrator(options, {"click": Task()}, {}, False, 2)
    counts = ScoreCounts(1, 2)
    half = torch.arange(120_000) % 2 == 0
    counts.update(
        a[half], y[half].unsqueeze(1), torch.ones(60_000, 1, dtype=torch.bool), torch.ones(60_000), scenario[half]
    )
    calibrator.fit(counts)
    return calibrator, a[~half], y[~half], scenario[~half]


def test_platt_leaves_the_auc_as_it_is() -> None:
    """Within each scenario, and over all rows where there is one map for all; maps of scenarios may change that over all rows."""
    for by in ("all", "scenario"):
        calibrator, a, y, scenario = fitted(by)
        found = calibrator(a, scenario)[:, 0]
        for part in [scenario == s for s in (0, 1)] + [scenario >= 0] * (by == "all"):
            before, after = (roc_auc_score(y[part], x[part].double()) for x in (a[:, 0], found))
            assert after == pytest.approx(before, abs=1e-6)
    before, after = (roc_auc_score(y, x.double()) for x in (a[:, 0], found))
    assert after > before + 0.005  # here the right levels of the scenarios are information


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_maps_of_scenarios_calibrate_each(method: str) -> None:
    calibrator, a, y, scenario = fitted("scenario", method)
    found = torch.sigmoid(calibrator(a, scenario)[:, 0].double())
    for s in (0, 1):
        assert (found[scenario == s].sum() / y[scenario == s].sum()).item() == pytest.approx(1, abs=0.05)
        assert not 0.9 < (torch.sigmoid(a[scenario == s, 0]).sum() / y[scenario == s].sum()).item() < 1.1
    with pytest.raises(ValueError, match="need the scenario"):
        calibrator(a, None)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_what_is_not_finite_stays_so(method: str) -> None:
    calibrator, *_ = fitted("all", method)
    found = calibrator(torch.tensor([[float("nan")], [float("inf")], [-float("inf")], [1e5], [-1e5]]), None)[:, 0]
    assert found[0].isnan()
    assert found[1:].tolist()[:2] == [float("inf"), -float("inf")]
    assert found[3:].isfinite().all()
    assert found[3] > found[4]


@pytest.mark.parametrize(
    ("section", "data", "words"),
    [
        ({"tasks": ["buyy"]}, {}, "did you mean `buy`"),
        ({"tasks": ["views"]}, {}, "a `count` task; only a `binary` one has a probability"),
        ({"tasks": ["buy", "buy"]}, {}, "names a task twice"),
        ({"by": "scenario"}, {}, "data.scenario is not set"),
        ({}, {"group": None}, "calibration needs data.group"),
        ({}, {"eval": None}, "neither is set; set data.eval"),
        ({"share": 1.0}, {}, "less than 1"),
        ({"method": "plat"}, {}, "platt"),
        ({"methd": "platt"}, {}, "methd"),
    ],
)
def test_what_cannot_be_fitted_is_refused(section: dict[str, Any], data: dict[str, Any], words: str) -> None:
    raw = small_raw()
    raw["tasks"]["views"] = {"kind": "count"}
    raw["data"] |= {"group": "user", "eval": {"start": "2026-01-04", "end": "2026-01-04"}} | data
    Config.model_validate(raw)
    with pytest.raises(ValidationError, match=words):
        Config.model_validate(raw | {"calibration": section})


def test_a_subset_without_a_calibrated_task_is_refused() -> None:
    raw = small_raw() | {"calibration": {"tasks": ["buy"]}, "tasks_subset": ["click"]}
    raw["data"] |= {"group": "user", "eval": {"start": "2026-01-04", "end": "2026-01-04"}}
    with pytest.raises(ValidationError, match="none of the tasks that are trained"):
        Config.model_validate(raw)


def test_a_factor_whose_labels_never_meet_is_refused() -> None:
    """The daily job reads a day again for its late labels alone, without those of the parent."""
    raw = small_raw() | {"calibration": {}, "daily": {"store": "/store"}, "model": {"preset": "esmm"}}
    raw["data"] |= {"group": "user"}
    Config.model_validate(raw)
    raw["tasks"]["buy"]["delay_days"] = 2
    with pytest.raises(ValidationError, match=r"P\(buy \| click\).*set calibration.tasks to \[click\]"):
        Config.model_validate(raw)
    Config.model_validate(raw | {"calibration": {"tasks": ["click"]}})
    Config.model_validate(raw | {"model": {"preset": "aitm"}})
