"""Convert a block's arrays to the columns of the logs, an Arrow table."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.synth import engagement
from raymtl.synth.attributes import AGES, APPS, DEVICES, GENDERS
from raymtl.synth.behaviours import Past
from raymtl.synth.chance import uniform
from raymtl.synth.clock import DAY_MS
from raymtl.synth.engagement import ACTIONS, Engagement
from raymtl.synth.rows import Rows
from raymtl.synth.spec import SynthSpec
from raymtl.synth.truth import BUY, CART, CLICK

FIRST_ITEM_ID = 10_000_000
"""`item_id` of item number 0; the IDs are consecutive, like an auto-increment key."""
TRUTH = ("p_click", "p_cart", "p_buy", "p_click_first", "mean_page_views", "mean_watch_time")
BOUGHT_IF_CLICKED = "p_buy_if_clicked"
BUY_TIME = "buy_time"
LABELS = ("click", "cart", "buy", "page_views", "watch_time")
ENGAGEMENT_TRUTH = (*(f"p_{name}" for name in ACTIONS), "mean_stars")
PLAIN = ("request_id", "timestamp", BUY_TIME, *TRUTH, "mean_spend", BOUGHT_IF_CLICKED, *ENGAGEMENT_TRUTH)
"""Columns of mostly distinct values, for which a parquet dictionary does not pay off."""
IMPRESSIONS = "impressions"
"""The column of nested files with the rows of a request."""
_USER_SIDE = ("user_", "hist_")
_ATTRIBUTES = ("age", "gender", "city", "device", "app_version")
_OF_REQUEST = ("request_id", "timestamp", "scenario", "hour_of_day", *_ATTRIBUTES, "random_order", "weight")
"""The columns that are the same for all rows of a request, with those whose names begin like this: `_USER_SIDE`."""
_TIME = pa.timestamp("ms", "UTC")
_FILTERED = 0.01  # share of requests that a traffic filter marked with weight 0


def label_columns(spec: SynthSpec) -> tuple[str, ...]:
    """The label columns of the logs."""
    return (*LABELS, *(("spend",) if spec.spend else ()), *(engagement.OUTPUTS if spec.engagement else ()))


class Columns:
    """Makes the Arrow tables of one shard."""

    def __init__(self, spec: SynthSpec, shard: int):
        self._spec, self._shard = spec, shard
        self._scenarios = pa.array([s.name for s in spec.scenarios])
        self._brands = pa.array([f"b{n}" for n in range(spec.brands)])

    def table(self, rows: Rows) -> pa.Table:
        """The rows as a table with the columns that `docs/synth.md` lists."""
        spec, day, items = self._spec, rows.day, rows.day.items
        width = spec.request_rows
        request = np.arange(len(rows.user))
        of_request = np.repeat(request, width)
        user, item = rows.user, rows.item.reshape(-1)
        users = day.users
        midnight = dt.datetime.combine(spec.start + dt.timedelta(days=day.number), dt.time(), dt.UTC).timestamp()

        def each(values: np.ndarray) -> pa.Array:
            return pa.array(np.repeat(values, width))

        def words(vocabulary: pa.Array, index: np.ndarray) -> pa.Array:
            return pa.DictionaryArray.from_arrays(np.repeat(index, width).astype(np.int32), vocabulary)

        number = (day.number * spec.shards + self._shard) * 2**32 + rows.first_request + request
        names = pc.binary_join_element_wise("u", pc.cast(pa.array(users.number[user]), pa.string()), "")
        columns: dict[str, pa.Array] = {
            "request_id": each(number),
            "timestamp": each(round(midnight * 1000) + rows.time_ms).cast(_TIME),
            "scenario": words(self._scenarios, rows.scenario),
            "hour_of_day": each(rows.hour),
            "user_id": names.take(pa.array(of_request)),
            "user_segment": each(users.segment[user]),
            "age": words(pa.array(AGES), users.age[user]),
            "gender": words(pa.array(GENDERS), users.gender[user]),
            "city": each(users.city[user]),
            "device": words(pa.array(DEVICES), users.device[user]),
            "app_version": words(pa.array(APPS), users.app[user]),
            "user_clicks_30d": _dense(np.repeat(users.activity[user], width)),
            "item_id": pa.array(FIRST_ITEM_ID + items.number[item]),
            "category": pa.array(items.category[item]),
            "brand": pa.DictionaryArray.from_arrays(items.brand[item].astype(np.int32), self._brands),
            "tags": _lists(items.tags[item], items.tag_count[item]),
            "price": _dense(items.price[item]),
            "item_age_days": _dense(items.age_days[item]),
            "item_ctr_7d": _dense(day.item_ctr[item]),
            "rating": _dense(day.item_rating[item]),
            "hist_items": self._history(rows.history, rows.history_valid, FIRST_ITEM_ID),
            **({"hist_categories": self._categories(rows)} if spec.interest else {}),
            **(self._behaviours(rows.past) if rows.past else {}),
            "position": pa.array(np.tile(np.arange(1, width + 1), len(request))),
            "random_order": each(rows.shuffled),
        }
        columns |= self._labels(rows)
        if (after := rows.buy_after_ms) is not None:
            shown_at = np.repeat(round(midnight * 1000) + rows.time_ms, width)
            columns[BUY_TIME] = pa.array(shown_at + after, mask=after < 0).cast(_TIME)
        if rows.engagement:
            columns |= _engagement_labels(rows.engagement)
        filtered = uniform(spec.seed, "weight", number) < _FILTERED
        columns["weight"] = each(np.where(filtered, 0, 1).astype(np.float32))
        for place, name in enumerate(TRUTH):
            columns[name] = pa.array(np.ascontiguousarray(rows.truth[:, place]), pa.float32())
        if rows.bought_if_clicked is not None:
            columns[BOUGHT_IF_CLICKED] = pa.array(rows.bought_if_clicked, pa.float32())
        if rows.spend is not None:
            columns["mean_spend"] = pa.array(np.ascontiguousarray(rows.spend[:, 1]))
        if rows.engagement:
            for place, name in enumerate(ENGAGEMENT_TRUTH):
                columns[name] = pa.array(np.ascontiguousarray(rows.engagement.truth[:, place]), pa.float32())
        return pa.table(columns).slice(0, rows.count)

    def _history(self, steps: np.ndarray, valid: np.ndarray, first: int = 0) -> pa.Array:
        """The valid steps [R, L] of each request, counted from `first`, once per row."""
        width = self._spec.request_rows
        kept = np.repeat(valid, width, axis=0)
        values = np.repeat(steps.astype(np.int64) + first, width, axis=0)[kept]
        return _list_array(values, kept.sum(axis=1))

    def _categories(self, rows: Rows) -> pa.Array:
        return self._history(rows.history_categories, rows.history_valid)

    def _behaviours(self, past: Past) -> dict[str, pa.Array]:
        """The properties of the steps of `hist_items`, and the further histories."""
        return {
            "hist_kinds": self._history(past.kinds, past.valid),
            "hist_gaps": self._history(past.gaps, past.valid),
            "hist_hours": self._history(past.hours, past.valid),
            "hist_carts": self._history(past.cart_items, past.cart_valid, FIRST_ITEM_ID),
            "hist_buys": self._history(past.buy_items, past.buy_valid, FIRST_ITEM_ID),
        }

    def _labels(self, rows: Rows) -> dict[str, pa.Array]:
        """Labels: null if not logged, or not yet known at the end of the day; with `buy_delay_days` the final ones."""
        spec = self._spec
        happened = rows.labels.astype(np.int8)
        wait_ms = 0 if spec.buy_delay_days else spec.buy_window_hours * 3_600_000
        mature = rows.time_ms + wait_ms <= DAY_MS
        not_logged, mature = np.repeat(~rows.cart_logged, spec.request_rows), np.repeat(mature, spec.request_rows)
        labels = {
            "click": pa.array(np.ascontiguousarray(happened[:, CLICK])),
            "cart": pa.array(np.ascontiguousarray(happened[:, CART]), mask=not_logged),
            "buy": pa.array(np.ascontiguousarray(happened[:, BUY]), mask=~mature),
            "buy_mature": pa.array(mature),
            "page_views": pa.array(rows.page_views.astype(np.float32)),
            "watch_time": _dense(rows.watch_time),
        }
        if rows.spend is not None:
            labels["spend"] = pa.array(np.ascontiguousarray(rows.spend[:, 0]), mask=~mature)
        return labels


def nested(table: pa.Table, width: int) -> pa.Table:
    """The rows of `Columns.table` as one per request, of `width` rows but for the last one."""
    first = np.arange(0, table.num_rows, width)
    requests = table.select([n for n in table.column_names if n in _OF_REQUEST or n.startswith(_USER_SIDE)]).take(
        pa.array(first)
    )
    impressions = table.drop_columns(requests.column_names).to_struct_array().combine_chunks()
    offsets = pa.array(np.append(first, table.num_rows).astype(np.int32))
    return requests.append_column(IMPRESSIONS, pa.ListArray.from_arrays(offsets, impressions))


def flat(requests: pa.Table) -> pa.Table:
    """The columns of the impressions of nested rows."""
    return pa.Table.from_struct_array(pc.list_flatten(requests[IMPRESSIONS]))


def _engagement_labels(reacted: Engagement) -> dict[str, pa.Array]:
    actions = reacted.actions.astype(np.int8)
    labels = {name: pa.array(np.ascontiguousarray(actions[:, n])) for n, name in enumerate(ACTIONS)}
    return {**labels, "stars": _dense(reacted.stars)}


def _dense(values: np.ndarray) -> pa.Array:
    """float32 with null for NaN."""
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def _lists(values: np.ndarray, count: np.ndarray) -> pa.Array:
    """The first `count` of each row of `values` [N, W] as list<int64>; a negative count is a null list."""
    kept = np.arange(values.shape[1]) < count[:, None]
    return _list_array(values[kept], np.maximum(count, 0), count < 0)


def _list_array(values: np.ndarray, lengths: np.ndarray, nulls: np.ndarray | None = None) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    mask = pa.array(nulls) if nulls is not None and nulls.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)
