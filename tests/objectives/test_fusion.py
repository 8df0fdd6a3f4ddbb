"""The formulas of a score, by hand, at the edges of the number range, and as they rank."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from raymtl.config.score import MOST_BUCKETS, Formula
from raymtl.errors import ConfigError
from raymtl.objectives.fusion import FLOOR, Fusion, fuse


def formula(**raw: Any) -> Any:
    return TypeAdapter(Formula).validate_python(raw)


def outputs(**values: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(column, dtype=torch.float32) for name, column in values.items()}


def test_a_weighted_sum_by_hand() -> None:
    found = fuse(
        formula(type="sum", weights={"click": 1, "buy": 20, "hide": -3}), outputs(click=[0.2], buy=[0.01], hide=[0.1])
    )
    assert found.item() == pytest.approx(0.2 + 20 * 0.01 - 3 * 0.1, abs=1e-7)


def test_a_product_of_powers_by_hand() -> None:
    found = fuse(
        formula(type="product", powers={"click": 1, "buy": 0.5, "hide": -0.3}),
        outputs(click=[0.2], buy=[0.01], hide=[0.1]),
    )
    assert found.item() == pytest.approx(0.2 * 0.1 * 0.1**-0.3, rel=1e-6)


def test_buckets_by_hand() -> None:
    spec = formula(type="buckets", by="click", edges=[0.1, 0.5], then="buy")
    found = fuse(spec, outputs(click=[0.05, 0.5, 0.1], buy=[1e-3, 1e-3, 0.0])).double()
    place = 0.5 + 0.5 * math.log(1e-3 / 1e-9) / math.log(1e18)
    np.testing.assert_allclose(found, [1 + place, 4 * (1 + place), 2 * 1.5], rtol=1e-6)


def test_buckets_rank_as_two_keys() -> None:
    random = np.random.default_rng(0)
    rows = 20_000
    edges = np.sort(random.choice(np.linspace(0.01, 0.99, 200), MOST_BUCKETS - 1, replace=False))
    click, buy = (
        random.random(rows).astype(np.float32),
        (random.normal(size=rows) * 10.0 ** random.integers(-6, 6, rows)).astype(np.float32),
    )
    found = fuse(
        formula(type="buckets", by="click", edges=edges.tolist(), then="buy"),
        {"click": torch.tensor(click), "buy": torch.tensor(buy)},
    )
    assert torch.equal(
        torch.floor(torch.log2(found)),
        torch.tensor(np.searchsorted(edges, click.astype(np.float64), side="right")).float(),
    )
    order = np.lexsort((buy, np.searchsorted(edges, click.astype(np.float64), side="right")))
    steps = np.diff(found.numpy()[order])
    assert steps.min() >= 0
    tied = np.abs(np.diff(buy[order])) / np.abs(buy[order][1:])
    assert (steps[tied > 1e-5] > 0).all()


@pytest.mark.parametrize("raw", [
    {"type": "sum", "weights": {"a": 1e30, "b": 1e30}},
    {"type": "product", "powers": {"a": 5, "b": 4}},
    {"type": "product", "powers": {"a": -5, "b": -4}},
    {"type": "buckets", "by": "a", "edges": [n / 100 for n in range(1, MOST_BUCKETS)], "then": "b"},
])  # fmt: skip
def test_a_score_is_finite(raw: dict[str, Any]) -> None:
    edge = [0.0, 1e-45, 1e-38, FLOOR, 1e-3, 0.5, 1.0, 1e30, 3e38]
    a, b = torch.tensor(edge).repeat_interleave(len(edge)), torch.tensor(edge).repeat(len(edge))
    assert fuse(formula(**raw), {"a": a, "b": b}).isfinite().all()


def test_a_fault_of_the_model_stays_visible() -> None:
    for raw in ({"type": "sum", "weights": {"a": 1}}, {"type": "product", "powers": {"a": 1}}):
        assert fuse(formula(**raw), outputs(a=[math.nan])).isnan().all()
    assert fuse(formula(type="buckets", by="a", edges=[0.5], then="b"), outputs(a=[0.6], b=[math.nan])).isnan().all()


def test_scores_are_columns_in_the_order_of_the_formulas() -> None:
    fusion = Fusion(
        {"sum": formula(type="sum", weights={"buy": 2}), "product": formula(type="product", powers={"click": 2})},
        ["click", "buy"],
    )
    assert fusion.names == ["sum", "product"]
    torch.testing.assert_close(fusion(torch.tensor([[0.5, 0.1]])), torch.tensor([[0.2, 0.25]]))


def test_an_output_that_the_model_lacks_is_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"score.formulas.value names `cvrr`, which is not one of the outputs `click`, `cvr`; did you mean `cvr`",
    ):
        Fusion({"value": formula(type="sum", weights={"cvrr": 2})}, ["click", "cvr"])
