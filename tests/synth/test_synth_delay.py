"""Delays of buys: their distribution, what they depend on, and what the logs and the configuration show of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from scipy import stats

from raymtl.config.load import load_config, section_from
from raymtl.errors import ConfigError
from raymtl.synth import SynthSpec, write_logs
from raymtl.synth.calibrate import calibrate
from raymtl.synth.clock import DAY_MS
from raymtl.synth.delay import BuyDelays
from raymtl.synth.shard import Shard
from raymtl.synth.truth import BUY

MANY = SynthSpec(days=1, rows_per_day=100_000, users=2000, items=1000, cart_rate=0.1, buy_rate=0.08, buy_delay_days=3)
SMALL = SynthSpec(days=2, rows_per_day=8_003, users=300, items=200, cart_rate=0.08, buy_rate=0.05)


@pytest.fixture(scope="module")
def buys() -> dict[str, np.ndarray]:
    """Every buy of a day: its delay, its mean by the formula, and where it comes from."""
    delays, found = BuyDelays(MANY), []
    for rows in Shard(MANY, 0, calibrate(MANY)).rows(0):
        buy = np.flatnonzero(rows.labels[:, BUY])
        request, item, day = buy // MANY.request_rows, rows.item.reshape(-1)[buy], rows.day
        user = rows.user[request]
        found.append(
            {
                "delay": rows.buy_after_ms[buy],
                "mean": delays.mean_ms(day.users, day.items, user, item),
                "left": DAY_MS - rows.time_ms[request],
                "category": day.items.category[item],
                "segment": day.users.segment[user],
                "price": day.items.price[item],
                "chance": rows.truth[buy, BUY],
                "item": item,
                "user": user,
            }
        )
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def test_delays_are_truncated_exponentials_whose_means_the_columns_give(buys):
    longest = MANY.buy_delay_days * DAY_MS
    assert 0 <= buys["delay"].min() < buys["delay"].max() < longest
    assert buys["delay"].max() > 0.98 * longest
    level = stats.truncexpon.cdf(buys["delay"], b=longest / buys["mean"], scale=buys["mean"])
    assert stats.kstest(level, "uniform").pvalue > 1e-3
    for name in ("mean", "left", "chance", "category", "segment", "item", "user"):  # nothing else tells more
        assert stats.spearmanr(level, buys[name]).pvalue > 1e-3, name


def test_the_mean_depends_on_category_segment_and_price_alone(buys):
    known = ~np.isnan(buys["price"])
    log, price = np.log(buys["mean"] / 3_600_000), (np.log1p(buys["price"]) - 3.1) / 0.85
    of_category, of_segment = np.eye(30)[buys["category"]], np.eye(8)[buys["segment"]]
    explained = np.column_stack([of_category, of_segment, np.where(known, price, 0)])
    fit, *_ = np.linalg.lstsq(explained, log, rcond=None)
    np.testing.assert_allclose(explained @ fit, log, atol=1e-5)
    assert fit[-1] == pytest.approx(0.7, abs=1e-5)
    effects = fit[:30] + fit[30:38].mean()
    assert [effects.mean(), effects.std(), fit[30:38].std()] == pytest.approx([np.log(13), 1.3, 0.8], abs=1e-4)


def test_half_of_the_buys_are_known_by_midnight_but_few_or_most_of_a_group(buys):
    known = buys["delay"] < buys["left"]
    assert 0.4 < known.mean() < 0.6
    group = buys["category"] * 8 + buys["segment"]
    count, share = np.bincount(group), np.bincount(group, known)
    share = (share / np.maximum(count, 1))[count >= 40]
    assert len(share) > 50
    assert np.quantile(share, 0.05) < 0.2
    assert np.quantile(share, 0.95) > 0.85


def days_of(spec: SynthSpec, out: Path) -> pa.Table:
    write_logs(spec, str(out))
    return pa.concat_tables(pq.read_table(path, partitioning=None) for path in sorted(out.glob("ds=*/*.parquet")))


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[pa.Table, pa.Table]:
    """The same rows with and without delays of days."""
    folder = tmp_path_factory.mktemp("logs")
    late = SMALL.model_copy(update={"buy_delay_days": 2, "spend": True})
    return days_of(late, folder / "late"), days_of(SMALL.model_copy(update={"spend": True}), folder / "plain")


def test_labels_are_final_and_no_other_column_changes(both):
    late, plain = both
    changed = {"buy", "spend", "buy_mature"}
    assert set(late.column_names) == {*plain.column_names, "buy_time"}
    for name in set(plain.column_names) - changed:
        assert late[name].combine_chunks().equals(plain[name].combine_chunks()), name
    assert pc.all(late["buy_mature"]).as_py()
    for name in ("buy", "spend"):
        assert late[name].null_count == 0 < plain[name].null_count
        seen = plain[name].is_valid()
        assert late[name].filter(seen).combine_chunks().equals(plain[name].drop_null().combine_chunks())


def test_a_row_has_a_time_if_and_only_if_it_has_a_buy(both):
    late, _ = both
    assert late.schema.field("buy_time").type == pa.timestamp("ms", "UTC")
    assert late["buy_time"].is_valid().to_numpy().tolist() == (late["buy"].to_numpy() == 1).tolist()
    bought = late.filter(pc.equal(late["buy"], 1))
    delay = pc.cast(bought["buy_time"], pa.int64()).to_numpy() - pc.cast(bought["timestamp"], pa.int64()).to_numpy()
    assert len(delay) > 300
    assert 0 <= delay.min() < DAY_MS < delay.max() < 2 * DAY_MS


def milliseconds(column: pa.ChunkedArray) -> list[int]:
    return pc.cast(column, pa.int64()).to_pylist()


def test_histories_show_a_buy_from_its_time_on(tmp_path):
    """Not before, and at most one refresh of the histories later (150 minutes at night)."""
    changes = {"days": 4, "rows_per_day": 8000, "behaviours": True, "buy_delay_days": 1, "new_users": 0.0}
    logs = days_of(SMALL.model_copy(update=changes), tmp_path)
    made: dict[str, list[tuple[int, int]]] = {}
    bought = logs.filter(logs["buy_time"].is_valid())
    pairs = zip(milliseconds(bought["buy_time"]), bought["item_id"].to_pylist(), strict=True)
    for user, buy in zip(bought["user_id"].to_pylist(), pairs, strict=True):
        made.setdefault(user, []).append(buy)
    requests = logs.take(pa.array(np.arange(0, logs.num_rows, SMALL.request_rows)))
    shown = late = 0
    for user, history, now in zip(
        requests["user_id"].to_pylist(),
        requests["hist_buys"].to_pylist(),
        milliseconds(requests["timestamp"]),
        strict=True,
    ):
        past = sorted(buy for buy in made.get(user, []) if buy[0] <= now)
        ends = [n for n in range(len(past) + 1) if [item for _, item in past[max(0, n - SMALL.history) : n]] == history]
        assert ends, "the history holds something else than the last buys at an earlier moment"
        assert all(now - time < 150 * 60_000 for time, _ in past[max(ends) :])
        shown, late = shown + len(history), late + len(past) - max(ends)
    assert shown > 5000
    assert late > 20


def test_config_trains_the_daily_job_on_final_labels(tmp_path):
    summary = write_logs(SMALL.model_copy(update={"buy_delay_days": 2, "spend": True}), str(tmp_path))
    tasks = load_config(summary.config).tasks
    assert {name: task.delay_days for name, task in tasks.items() if task.delay_days} == {"buy": 2, "spend": 2}
    assert tasks["buy"].observed is None
    text = Path(summary.config).read_text()
    assert "`buy` is final in all rows; `buy_time` says when it was made" in text
    assert yaml.safe_load(text)["data"]["timestamp"] == "timestamp"


def test_two_windows_are_refused():
    with pytest.raises(ConfigError, match="buy_window_hours is 1 and buy_delay_days 2, which replaces it; remove one"):
        section_from(SynthSpec, {"buy_window_hours": 1.0, "buy_delay_days": 2}, [], "the logs")


def test_without_it_nothing_is_added():
    spec = MANY.model_copy(update={"buy_delay_days": 0, "rows_per_day": 3000})
    assert next(Shard(spec, 0, calibrate(spec)).rows(0)).buy_after_ms is None
