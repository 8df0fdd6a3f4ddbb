"""Logs with `behaviours`: what the further histories and the properties of the steps show, and that they move the labels."""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.synth import SynthSpec, write_logs
from raymtl.synth.behaviours import GAPS, KINDS, BehaviourEffects, Behaviours, Past
from raymtl.synth.calibrate import calibrate
from raymtl.synth.rows import Rows
from raymtl.synth.shard import Shard
from raymtl.synth.truth import BUY, CART, CLICK

SPEC = SynthSpec(days=3, rows_per_day=15_000, users=300, items=250, new_users=0.05, behaviours=True)
USUAL = np.full((3, SPEC.categories), 1 / SPEC.categories, np.float32)
PROPERTIES = ("hist_kinds", "hist_gaps", "hist_hours")


def days_of(spec: SynthSpec, out: str) -> pa.Table:
    write_logs(spec, out)
    return pa.concat_tables(
        pq.read_table(f"{out}/ds={date}/part-000-00000.parquet", partitioning=None) for date in spec.dates()
    )


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> pa.Table:
    return days_of(SPEC, str(tmp_path_factory.mktemp("logs")))


@pytest.fixture(scope="module")
def prompt_logs(tmp_path_factory) -> pa.Table:
    """Logs in which every buy arrives at once, so that none of its labels is missing."""
    return days_of(SPEC.model_copy(update={"buy_window_hours": 0.0}), str(tmp_path_factory.mktemp("prompt")))


@dataclass
class Click:
    """One click as the labels of the logs tell it."""

    item: int
    minute: int
    cart: int | None
    buy: int | None


@dataclass
class Request:
    """What one request shows, and all clicks that its user made before."""

    minute: int
    shown: dict[str, list[int]]
    past: list[Click]


def replay(logs: pa.Table) -> list[Request]:
    """All requests in order, with the past as the labels of earlier rows tell it."""
    width = SPEC.request_rows
    first = np.arange(0, logs.num_rows, width)
    names = ("hist_items", *PROPERTIES, "hist_carts", "hist_buys")
    lists = {name: logs[name].take(first).to_pylist() for name in names}
    users, minutes = logs["user_id"].take(first).to_pylist(), logs["timestamp"].cast(pa.int64()).to_numpy() // 60_000
    click, cart, buy = (logs[name].to_pylist() for name in ("click", "cart", "buy"))
    item = logs["item_id"].to_pylist()
    clicks: dict[str, list[Click]] = defaultdict(list)
    requests = []
    for n, (row, user) in enumerate(zip(first.tolist(), users, strict=True)):
        minute = int(minutes[row])
        requests.append(Request(minute, {name: values[n] for name, values in lists.items()}, list(clicks[user])))
        clicks[user] += [Click(item[k], minute, cart[k], buy[k]) for k in range(row, row + width) if click[k]]
    return requests


def steps_shown(request: Request) -> tuple[list[Click], int]:
    """The clicks behind `hist_items`, and how many later ones are not in it yet."""
    past, shown = request.past, request.shown["hist_items"]
    ends = [k for k in range(len(past), -1, -1) if [c.item for c in past[max(0, k - SPEC.history) : k]] == shown]
    assert ends, "the history holds something else than the last clicks at an earlier moment"
    return past[ends[0] - len(shown) : ends[0]], len(past) - ends[0]


def test_properties_stand_step_by_step_beside_the_items(logs):
    lengths = pc.list_value_length(logs["hist_items"])
    for name, values in zip(PROPERTIES, (range(1, KINDS), range(GAPS), range(24)), strict=True):
        assert str(logs.schema.field(name).type) == "list<element: int64>"
        assert pc.list_value_length(logs[name]).equals(lengths)
        flat = pc.list_flatten(logs[name])
        assert values[0] <= pc.min(flat).as_py() < pc.max(flat).as_py() <= values[-1]
    for name in ("hist_carts", "hist_buys"):
        assert logs[name].null_count == 0
        assert 0 < pc.max(pc.list_value_length(logs[name])).as_py() <= SPEC.history


def test_gaps_and_hours_are_those_of_the_clicks(logs):
    steps = 0
    for request in replay(logs):
        clicks, _ = steps_shown(request)
        assert request.shown["hist_gaps"] == [(request.minute - c.minute).bit_length() for c in clicks]
        assert request.shown["hist_hours"] == [c.minute // 60 % 24 for c in clicks]
        steps += len(clicks)
    assert steps > 20_000


def test_kinds_tell_how_far_each_click_went_and_only_what_the_app_logs(prompt_logs):
    """3 where it was bought, 2 where a cart was logged, 1 else."""
    steps = 0
    for request in replay(prompt_logs):
        clicks, _ = steps_shown(request)
        want = [3 if c.buy else 2 if c.cart else 1 for c in clicks]
        assert request.shown["hist_kinds"] == want
        steps += len(want)
    assert steps > 20_000


def test_a_buy_shows_when_it_has_arrived_and_not_before(logs):
    """Within the window a step of a later buy may still be a cart or a click; after it, and a refresh, it is a buy."""
    early = late = 0
    refresh = 150  # minutes at most between two refreshes of the night
    for request in replay(logs):
        clicks, _ = steps_shown(request)
        for click, kind in zip(clicks, request.shown["hist_kinds"], strict=True):
            age = request.minute - click.minute
            if kind == 3:
                assert click.buy in (1, None)
            elif click.buy:
                assert age <= SPEC.buy_window_hours * 60 + refresh
                early += 1
            late += kind == 3 and age < SPEC.buy_window_hours * 60
    assert early > 20
    assert late > 20


@pytest.mark.parametrize("name", ["hist_carts", "hist_buys"])
def test_carts_and_buys_are_the_last_ones_before(prompt_logs, name):
    longest = 0
    for request in replay(prompt_logs):
        _, later = steps_shown(request)
        known = request.past[: len(request.past) - later]
        happened = [c.item for c in known if (c.cart if name == "hist_carts" else c.buy)]
        assert request.shown[name] == happened[-SPEC.history :]
        longest = max(longest, len(happened))
    assert longest > SPEC.history // 2


def test_late_buys_come_in_the_order_of_their_arrival_and_none_is_lost(logs):
    for request in replay(logs):
        shown = request.shown["hist_buys"]
        possible = [c.item for c in request.past if c.buy in (1, None)]
        assert all(shown.count(item) <= possible.count(item) for item in set(shown))
        arrived = [c.item for c in request.past if c.buy and request.minute - c.minute > 330]
        if len(shown) < SPEC.history:
            assert all(shown.count(item) >= arrived.count(item) for item in set(arrived))


def test_a_new_user_begins_without_a_past(logs):
    first_day = logs["user_clicks_30d"].is_null().to_numpy()
    later = np.arange(logs.num_rows) >= SPEC.rows_per_day
    opening = logs.filter(pa.array(first_day & later))
    assert opening.num_rows > 200
    users = opening["user_id"].to_numpy()
    _, first = np.unique(users, return_index=True)
    for name in ("hist_items", "hist_kinds", "hist_carts", "hist_buys"):
        assert set(pc.list_value_length(opening[name]).to_numpy()[first]) == {0}


def test_a_buy_under_way_is_dropped_with_its_user():
    spec = SPEC.model_copy(update={"history": 3})
    state = Behaviours(spec, 2)
    one = np.ones(2, bool)
    time = np.array([60_000, 120_000])
    state.add(np.array([0, 1]), np.array([7, 8]), np.array([1, 2]), time, one, time + 600_000)
    state.refresh(700_000)
    past = state.read(np.array([0, 1]), np.array([700_000, 700_000]))
    assert past.kinds[past.valid].tolist() == [3, 2]
    assert [past.buy_items[n][past.buy_valid[n]].tolist() for n in (0, 1)] == [[7], []]
    state.clear(np.array([1]))
    state.refresh(800_000)
    past = state.read(np.array([0, 1]), np.array([900_000, 900_000]))
    assert not past.valid[1].any()
    assert not past.buy_valid[1].any()
    assert past.gaps[past.valid].tolist() == [4]  # 14 minutes
    assert past.cart_items[0][past.cart_valid[0]].tolist() == [7]


def past_of(**columns: list[int]) -> Past:
    """One request whose clicks were of the categories 1 and 2, alike unless `columns` says otherwise; no carts, no buys."""
    two, none = np.ones((1, 2), int), np.zeros((1, 2), bool)
    past = Past(two, np.array([[1, 2]]), two > 0, two, two * 5, two * 20, two, two, none, two, two, none)
    return replace(past, **{name: np.array([values]) for name, values in columns.items()})


@pytest.mark.parametrize(
    "columns", [{"gaps": [2, 12]}, {"kinds": [2, 1]}, {"kinds": [3, 2]}, {"hours": [20, 12]}], ids=str
)
def test_recent_deep_and_leisurely_clicks_count_more(columns):
    """For an item of the first step's category the past is worth more than for one of the second's."""
    effects = BehaviourEffects(SPEC)
    items, feed = np.array([[1, 2]]), np.zeros(1, int)
    alike, told = (effects.scores(past, items, feed, USUAL)[0] for past in (past_of(), past_of(**columns)))
    assert (told[0] - told[1] > alike[0] - alike[1] + 0.01).all()


def test_carts_and_buys_push_the_tasks_in_different_directions():
    """The share of the item's category in carts (buys): + for the click, − (+) for the cart, + (−) for the buy."""
    effects = BehaviourEffects(SPEC)
    items, feed, here = np.array([[1, 2]]), np.zeros(1, int), np.ones((1, 2), bool)
    alike = effects.scores(past_of(), items, feed, USUAL)[0]
    for signs, past in (
        ((1, -1, 1), past_of(cart_categories=[1, 1], cart_valid=here[0].tolist())),
        ((1, 1, -1), past_of(buy_categories=[1, 1], buy_valid=here[0].tolist())),
    ):
        gain = np.diff(effects.scores(past, items, feed, USUAL)[0] - alike, axis=0)[0] * -1
        assert np.sign(gain[[CLICK, CART, BUY]]).tolist() == list(signs)
        assert np.abs(gain[[CLICK, CART, BUY]]).min() > 0.2


@pytest.fixture(scope="module")
def blocks() -> list[Rows]:
    """Two days of a larger world, in memory."""
    spec = SPEC.model_copy(update={"users": 1000, "items": 500, "rows_per_day": 60_000})
    shard = Shard(spec, 0, calibrate(spec))
    return [rows for day in range(2) for rows in shard.rows(day)]


def test_weighted_histories_explain_the_truth_better_than_mean_pooling(blocks):
    """Share of variance of the true click logit, averaged over each request, that category shares of the history explain."""
    logit, plain, weighted = [], [], []
    for rows in blocks:
        past, p = rows.past, rows.truth[:, 3].astype(float)
        full = past.valid.sum(1) >= 10
        weight = 2.0 ** -np.maximum(past.gaps - 6, 0) * np.array([0, 1, 4, 8])[past.kinds] * past.valid
        weight *= np.where((past.hours >= 9) & (past.hours < 18), 0.2, 1.2)
        one_hot = np.eye(SPEC.categories)[past.categories]
        for kept, w in ((plain, past.valid.astype(float)), (weighted, weight)):
            kept.append(((w / np.maximum(w.sum(1), 1e-9)[:, None])[:, :, None] * one_hot).sum(1)[full])
        logit.append(np.log(p / (1 - p)).reshape(-1, SPEC.request_rows).mean(1)[full])
    y = np.concatenate(logit)
    explained = []
    for kept in (plain, weighted):
        x = np.concatenate(kept)
        fit = x @ np.linalg.lstsq(x, y, rcond=None)[0]
        explained.append(1 - (y - fit).var() / y.var())
    assert explained[1] > explained[0] + 0.05, explained


def test_histories_that_grow_hardly_move_the_rates(blocks):
    second_day = np.concatenate([rows.truth for rows in blocks if rows.day.number == 1])
    assert second_day[:, :3].mean(axis=0) == pytest.approx([0.154, SPEC.cart_rate, SPEC.buy_rate], rel=0.15)
