"""Hidden intent: the true probabilities are those given the columns, and clicked rows are not like the others."""

import numpy as np
import pytest

from raymtl.synth import SynthSpec, intent
from raymtl.synth.calibrate import calibrate
from raymtl.synth.shard import Shard
from raymtl.synth.truth import BUY, CART, CLICK, chances

SPEC = SynthSpec(users=2000, items=500, days=1, rows_per_day=60_000, hidden_intent=1.0)


@pytest.fixture(scope="module")
def world() -> dict[str, np.ndarray]:
    blocks = list(Shard(SPEC, 0, calibrate(SPEC)).rows(0))
    return {
        "labels": np.concatenate([block.labels[: block.count] for block in blocks]),
        "truth": np.concatenate([block.truth[: block.count, :3] for block in blocks]),
        "if_clicked": np.concatenate([block.bought_if_clicked[: block.count] for block in blocks]),
        "request": np.concatenate([n * 10_000 + np.arange(block.count) // 10 for n, block in enumerate(blocks)]),
    }


def test_probabilities_are_means_over_the_intent():
    scores = np.array([[-1.5, -0.5, -1.0, 0.0, 0.0], [0.3, 0.2, 0.8, 0.0, 0.0]], dtype=np.float32)
    h = np.random.default_rng(0).normal(size=(400_000, 1))
    for row, expected in zip(scores, intent.mean_chances(scores, 1.3), strict=True):
        drawn = chances(row[None, :3] + 1.3 * intent.LOADS * h).mean(axis=0)
        np.testing.assert_allclose(expected, drawn, rtol=0.01)
    made = 1 / (1 + np.exp(-(scores[1, None, 1:3] + 1.3 * intent.LOADS[1:] * h)))
    assert intent.bought_if_clicked(scores, 1.3)[1] == pytest.approx(made.prod(axis=1).mean(), rel=0.01)


def test_labels_follow_the_probabilities_and_the_rates(world):
    share, truth = world["labels"].mean(axis=0), world["truth"].mean(axis=0)
    np.testing.assert_allclose(share, truth, rtol=0.08)
    assert truth[CART] == pytest.approx(SPEC.cart_rate, rel=0.1)
    assert truth[BUY] == pytest.approx(SPEC.buy_rate, rel=0.1)
    assert (world["truth"][:, BUY] <= world["truth"][:, CART]).all()


def test_clicked_rows_overstate_what_the_others_would_buy(world):
    given_click = world["truth"][:, BUY] / world["truth"][:, CLICK]
    assert given_click.mean() / world["if_clicked"].mean() > 1.4
    clicked = world["labels"][:, CLICK]
    assert world["labels"][clicked, BUY].mean() > 1.3 * world["if_clicked"][clicked].mean()


def test_rows_of_a_request_share_their_intent(world):
    left = world["labels"][:, CLICK] - world["truth"][:, CLICK]
    per_request = np.bincount(world["request"], left)
    per_request = per_request[np.unique(world["request"])]
    independent = (world["truth"][:, CLICK] * (1 - world["truth"][:, CLICK])).sum() / len(per_request)
    assert per_request.var() > 1.5 * independent


def test_without_it_nothing_changes():
    spec = SPEC.model_copy(update={"hidden_intent": 0.0, "rows_per_day": 3000})
    block = next(Shard(spec, 0, calibrate(spec)).rows(0))
    assert block.bought_if_clicked is None
