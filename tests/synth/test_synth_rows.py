"""The content of synthetic logs: funnel, rates, histories, new IDs, positions, missing labels."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raymtl.synth import SynthSpec, write_logs
from raymtl.synth.columns import FIRST_ITEM_ID
from raymtl.synth.history import History

SPEC = SynthSpec(days=3, rows_per_day=60_000, users=1500, items=600, new_users=0.05, new_items=0.05)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> pa.Table:
    """All rows in order, with the number of the day."""
    out = str(tmp_path_factory.mktemp("logs"))
    write_logs(SPEC, out)
    days = []
    for n, date in enumerate(SPEC.dates()):
        day = pq.read_table(f"{out}/ds={date}/part-000-00000.parquet", partitioning=None)
        days.append(day.append_column("day", pa.array(np.full(day.num_rows, n))))
    return pa.concat_tables(days)


def column(logs: pa.Table, name: str) -> np.ndarray:
    """Values with NaN (numbers) or None (text) for null."""
    return logs[name].to_numpy()


def test_the_columns_have_the_types_of_the_data_contract(logs):
    types = {f.name: str(f.type) for f in logs.schema}
    strings = ("scenario", "user_id", "age", "gender", "device", "app_version", "brand")
    integers = ("request_id", "hour_of_day", "user_segment", "city", "item_id", "category", "position")
    dense = ("user_clicks_30d", "price", "item_age_days", "item_ctr_7d", "rating", "weight")
    targets = ("page_views", "watch_time", "p_click", "p_cart", "p_buy", "mean_page_views", "mean_watch_time")
    assert {types[n] for n in strings} == {"string"}
    assert {types[n] for n in integers} == {"int64"}
    assert {types[n] for n in (*dense, *targets)} == {"float"}
    assert {types[n] for n in ("click", "cart", "buy")} == {"int8"}
    assert {types[n] for n in ("tags", "hist_items")} == {"list<element: int64>"}
    assert types["timestamp"] == "timestamp[ms, tz=UTC]"


def test_a_step_of_the_funnel_never_happens_without_the_one_before(logs):
    click, cart, buy = (column(logs, n) for n in ("click", "cart", "buy"))
    for child, parent in ((cart, click), (buy, cart), (buy, click)):
        both = ~np.isnan(child) & ~np.isnan(parent)
        assert both.sum() > 50_000
        assert (child[both] <= parent[both]).all()
    assert (np.diff(np.stack([column(logs, n) for n in ("p_buy", "p_cart", "p_click")]), axis=0) >= 0).all()


@pytest.mark.parametrize("task", ["click", "cart", "buy"])
def test_labels_come_at_the_true_rates_wherever_one_looks(logs, task):
    label, truth, scenario = column(logs, task), column(logs, f"p_{task}").astype(float), column(logs, "scenario")
    seen = ~np.isnan(label)
    tenth = np.searchsorted(np.quantile(truth, np.arange(1, 10) / 10), truth)
    groups = [seen, *(seen & (tenth == n) for n in range(10)), *(seen & (scenario == s) for s in ("feed", "search"))]
    for group in groups:
        noise = np.sqrt((truth[group] * (1 - truth[group])).sum())
        assert abs((label - truth)[group].sum()) < 4.5 * noise


def test_count_and_real_targets_have_the_true_means(logs):
    views, mean = column(logs, "page_views"), column(logs, "mean_page_views").astype(float)
    assert abs((views - mean).sum()) < 4.5 * np.sqrt(mean.sum())
    watch, mean = column(logs, "watch_time").astype(float), column(logs, "mean_watch_time").astype(float)
    clicked = ~np.isnan(watch)
    ratio = watch[clicked] / mean[clicked]
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(len(ratio))
    assert abs(np.corrcoef(mean[clicked], watch[clicked])[0, 1]) > 0.3


def test_the_rates_of_the_spec_are_reached(logs):
    click, scenario = column(logs, "click"), column(logs, "scenario")
    for kind in SPEC.scenarios:
        assert click[scenario == kind.name].mean() == pytest.approx(kind.click_rate, rel=0.08)
        assert (scenario == kind.name).mean() == pytest.approx(kind.share, abs=0.02)
    assert column(logs, "p_cart").mean() == pytest.approx(SPEC.cart_rate, rel=0.08)
    assert column(logs, "p_buy").mean() == pytest.approx(SPEC.buy_rate, rel=0.08)


def test_a_request_is_one_user_at_one_moment_with_positions_from_one(logs):
    for name in ("request_id", "user_id", "scenario", "timestamp", "random_order", "weight"):
        values = column(logs, name).reshape(-1, SPEC.request_rows)
        assert (values == values[:, :1]).all(), name
    assert (column(logs, "position").reshape(-1, 10) == np.arange(1, 11)).all()
    assert len(np.unique(column(logs, "request_id"))) == logs.num_rows // 10
    items = np.sort(column(logs, "item_id").reshape(-1, 10), axis=1)
    assert (np.diff(items, axis=1) == 0).mean() < 0.002  # neighbours in the ranking may meet at a stratum's edge


def test_times_rise_and_lie_within_their_day(logs):
    time = column(logs, "timestamp")
    assert (np.diff(time) >= np.timedelta64(0)).all()
    midnight = np.datetime64(SPEC.start) + column(logs, "day").astype("timedelta64[D]")
    passed = (time - midnight) / np.timedelta64(1, "h")
    assert passed.min() >= 0
    assert passed.max() < 24
    assert (passed.astype(int) == column(logs, "hour_of_day")).all()


def test_the_history_is_what_the_user_really_clicked_before(logs):
    first = np.arange(0, logs.num_rows, 10)
    user, history = column(logs, "user_id")[first], logs["hist_items"].take(first).to_pylist()
    click, item = column(logs, "click").reshape(-1, 10), column(logs, "item_id").reshape(-1, 10)
    clicked: dict[str, list[int]] = defaultdict(list)
    lags = []
    for n, who in enumerate(user):
        past, shown = clicked[who], history[n]
        matches = [k for k in range(len(past), -1, -1) if past[max(0, k - SPEC.history) : k] == shown]
        assert matches, f"request {n} of {who}: {shown} are not the last clicks at any earlier moment"
        lags.append(len(past) - matches[0])
        past += item[n][click[n] == 1].tolist()
    assert max(map(len, history)) == SPEC.history
    assert np.mean(np.array(lags) == 0) > 0.8  # only the clicks since the last refresh are missing
    rows = logs["hist_items"].to_pylist()
    assert all(rows[n] == rows[n - n % 10] for n in range(0, logs.num_rows, 7))


def test_an_empty_history_means_no_click_so_far(logs):
    lengths = pc.list_value_length(logs["hist_items"]).to_numpy()
    assert lengths[: SPEC.rows_per_day // 96].max() == 0
    assert lengths[-10_000:].mean() > 5
    assert logs["hist_items"].null_count == 0


def test_every_day_brings_new_users_and_items(logs):
    day = column(logs, "day")
    for name, new_today in (
        ("item_id", column(logs, "item_age_days") == 0),
        ("user_id", np.isnan(column(logs, "user_clicks_30d"))),
    ):
        ids = column(logs, name)
        for n in (1, 2):
            fresh = np.unique(ids[(day == n) & new_today])
            assert not set(fresh) & set(ids[day < n])
            assert len(fresh) / len(np.unique(ids[day == n])) == pytest.approx(0.05, abs=0.03)
    items = column(logs, "item_id") - FIRST_ITEM_ID
    assert items[day == 0].max() < SPEC.items <= items[day == 2].max()


def test_few_ids_take_much_of_the_traffic_and_most_take_little(logs):
    for name, count in (("user_id", SPEC.users), ("item_id", SPEC.items)):
        rows = np.sort(np.unique(column(logs, name), return_counts=True)[1])[::-1]
        top = rows[: count // 10].sum() / rows.sum()
        assert 0.2 < top < 0.8
        assert rows[0] / rows.sum() < 0.1
        assert np.median(rows) < rows.mean()


def test_position_pushes_clicks_down_and_the_old_ranker_sorts_partly(logs):
    shuffled, position = column(logs, "random_order"), column(logs, "position")
    rate = [column(logs, "click")[shuffled & (position == p)].mean() for p in range(1, 11)]
    noise = np.sqrt(0.16 / (shuffled.sum() / 10) / 3)
    assert np.mean(rate[:3]) - np.mean(rate[-3:]) > 5 * noise
    first, shown = column(logs, "p_click_first"), column(logs, "p_click")
    assert (shown <= first + 1e-6).all()
    np.testing.assert_allclose(shown[position == 1], first[position == 1], rtol=1e-5)
    by_position = [[first[(shuffled == s) & (position == p)].mean() for p in (1, 10)] for s in (False, True)]
    assert by_position[0][0] > 2 * by_position[0][1]
    assert by_position[1][0] == pytest.approx(by_position[1][1], rel=0.15)
    assert shuffled.mean() == pytest.approx(SPEC.random_order, abs=0.02)


def test_labels_are_null_exactly_where_nothing_logged_them(logs):
    unlogged = (column(logs, "scenario") == "live") | (column(logs, "app_version") == "4.0")
    assert (np.isnan(column(logs, "cart")) == unlogged).all()
    assert unlogged.mean() == pytest.approx(1 - 0.9 * 0.85, abs=0.05)
    assert (np.isnan(column(logs, "watch_time")) == (column(logs, "click") == 0)).all()
    assert logs["click"].null_count == logs["page_views"].null_count == 0


def test_buys_that_may_still_come_are_null_whatever_the_click(logs):
    buy, mature, hour = column(logs, "buy"), column(logs, "buy_mature"), column(logs, "hour_of_day")
    assert (np.isnan(buy) == ~mature).all()
    assert (mature == (hour < 21)).mean() > 0.999
    assert 0.1 < (~mature).mean() < 0.3
    late = column(logs, "click")[~mature]
    assert 0.1 < late.mean() < 0.25  # rows without a click are immature too, or only negatives would be left


def test_lists_and_dense_columns_have_their_oddities(logs):
    tags = logs["tags"]
    lengths = pc.list_value_length(tags).drop_null().to_numpy()
    assert 0 < tags.null_count / logs.num_rows < 0.1
    assert lengths.min() == 0
    assert lengths.max() == 5
    assert 0 < np.isnan(column(logs, "price")).mean() < 0.15
    assert 0.02 < np.isnan(column(logs, "rating")).mean() < 0.25
    price = column(logs, "price")
    price = price[~np.isnan(price)]
    assert price.mean() > 1.15 * np.median(price)
    assert 0.001 < (column(logs, "weight") == 0).mean() < 0.03


def test_the_history_keeps_the_newest_clicks_in_order():
    history = History(3, 4)
    history.add(np.array([1, 0, 1]), np.array([10, 20, 11]), np.array([0, 1, 0]))
    history.add(np.array([1, 1, 1]), np.array([12, 13, 14]), np.array([2, 3, 4]))
    items, categories, valid = history.read(np.array([1, 0, 2, 1]))
    assert [i[v].tolist() for i, v in zip(items, valid, strict=True)] == [[11, 12, 13, 14], [20], [], [11, 12, 13, 14]]
    assert [c[v].tolist() for c, v in zip(categories, valid, strict=True)] == [[0, 2, 3, 4], [1], [], [0, 2, 3, 4]]
    history.add(np.full(9, 0), np.arange(9), np.arange(9))
    history.clear(np.array([1]))
    items, _, valid = history.read(np.array([0, 1]))
    assert items[0].tolist() == [5, 6, 7, 8]
    assert not valid[1].any()
