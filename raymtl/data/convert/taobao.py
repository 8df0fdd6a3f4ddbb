"""Convert Taobao's user behaviour: 100 million events into views of products and what follows them within a day.

The events are first dealt out by user into temporary files, so that histories need no more memory than one of them.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymtl.data.convert.earlier import Earlier
from raymtl.data.convert.partitions import DenseMoments, PartitionWriter, ValueCounts, hash_table, map_table, start_over
from raymtl.data.convert.text_table import TextTable, find_file
from raymtl.data.ids.hashing import hash_rows
from raymtl.data.writing import OutputFolder, write_config
from raymtl.storage.paths import join_path

COLUMNS = ("user_id", "item_id", "category_id", "behavior", "timestamp")
"""The columns of the file, which has no header."""

BEHAVIORS = ("pv", "fav", "cart", "buy")
"""A view of the product's page, a mark as favourite, a product put into the cart, a purchase."""

LABELS = ("fav", "cart", "buy")
IDS = ("user_id", "item_id", "category_id", "hour", "weekday")
HISTORIES = {"last_items": "item_id", "last_categories": "category_id", "last_behaviors": "behavior"}
"""Sequences, step by step of the same events, and the table of each."""
DENSE = {"item_events": "log1p", "category_events": "log1p"}
HISTORY = 20
"""Events in a history, at most."""
WINDOW_S = 86_400
"""Seconds after a view in which a behaviour counts as its consequence."""

FIRST_DAY, LAST_DAY = "2017-11-25", "2017-12-03"
"""The days of the data set, in Beijing."""
TRAIN_END, EVAL_DAY = "2017-11-30", "2017-12-02"
"""The labels of the last training day are complete when the evaluation day begins."""

ADMIT_COUNT = 5
_BEIJING_S = 8 * 3600
_DAY_S = 86_400
_START, _END = (
    int(np.datetime64(day, "s").astype(np.int64)) - _BEIJING_S for day in (FIRST_DAY, "2017-12-04")
)  # Unix seconds
_BUCKET_BYTES = 12 << 20  # of text: some 300,000 events, and 300 files of the whole
_VIEWS = 65_536  # in a batch: histories are wide
_BUCKETS, _SPLIT = "_users", "logs"
_SITE = "https://tianchi.aliyun.com/dataset/649"
_HEADER = """\
Taobao user behaviour (Alibaba), converted by `raymtl convert taobao`. One row is one view of a product's page.
Tasks: whether the user marks the product, puts it into the cart, or buys it within 24 hours from then.
The labels of 2017-12-03 are null: the data end before their 24 hours do. 2017-12-01 is left out, so that no label of the
training days depends on the evaluation day."""


def convert_taobao(source: str, out: str) -> str:
    """Convert `source/UserBehavior.csv` to daily logs in `out/logs`; returns the path of `out/config.yaml`.

    Columns written: `IDS`, `HISTORIES` (lists, oldest first) and `DENSE`, all of events with an earlier time stamp, the
    `LABELS` (int8, null where the data end too early) and `timestamp`. Events outside of the nine days are left out, as
    there are some with impossible times. Raises DataError, with line and value, if the file is another one.
    """
    path = find_file("taobao", source, ["UserBehavior.csv"], _SITE)
    file = TextTable("taobao", path, COLUMNS, _SITE)
    folder = OutputFolder.open(out)
    start_over(folder, "taobao", [_SPLIT])
    folder.remove_folder(_BUCKETS)
    counts = {name: ValueCounts() for name in ("user_id", "item_id", "category_id")}
    moments, writer = DenseMoments(DENSE), PartitionWriter(folder, _SPLIT)
    try:
        buckets = _deal(file, folder)
        if not buckets:
            raise file.error(f"has no events from {FIRST_DAY} to {LAST_DAY}")
        for day, table in (pair for bucket in buckets for pair in _views(bucket)):
            writer.write_days(day, table)
            trained = table.filter(pc.less_equal(day, pa.scalar(TRAIN_END).cast(pa.date32())))
            moments.add(trained)
            for name in counts:
                counts[name].add(trained[name])
    finally:
        folder.remove_folder(_BUCKETS)
    writer.fill_days(FIRST_DAY, LAST_DAY)
    writer.close()
    return write_config(_config(counts, moments, folder.path), folder, _HEADER)


def _deal(file: TextTable, folder: OutputFolder) -> list["_Bucket"]:
    """Write the events to temporary files, all of a user to the same ones."""
    number = -(-os.path.getsize(file.path) // _BUCKET_BYTES)
    writer = PartitionWriter(folder, _BUCKETS)
    behaviors = pa.array(BEHAVIORS)
    for lines in file.batches():
        code = pc.index_in(lines.columns["behavior"], behaviors)
        lines.require("behavior", code.is_valid(), f"one of {list(BEHAVIORS)}")
        time = lines.integers("timestamp", low=-(2**40))
        table = pa.table(
            {name: lines.integers(name) for name in COLUMNS[:3]} | {"code": code.cast(pa.int8()), "time": time}
        )
        table = table.filter(pc.and_(pc.greater_equal(time, _START), pc.less(time, _END)))
        bucket = hash_rows(table["user_id"].to_numpy(), number)
        writer.write_days(pa.array(bucket), table)
    writer.close()
    return [_Bucket(folder.child(f"{_BUCKETS}/ds={name}")) for name in writer.rows]


class _Bucket:
    """The temporary files of some of the users."""

    def __init__(self, folder: OutputFolder):
        self._folder = folder

    def read(self) -> pa.Table:
        """Its events in chronological order; of one second, in the order of the file."""
        names = sorted(self._folder.files())
        filesystem = self._folder.filesystem
        parts = [pq.read_table(self._folder.inside(name), filesystem=filesystem, partitioning=None) for name in names]
        table = pa.concat_tables(parts).combine_chunks()
        return table.take(pa.array(np.argsort(table["time"].to_numpy(), kind="stable"))).combine_chunks()


def _views(bucket: _Bucket) -> Iterator[tuple[pa.Array, pa.Table]]:
    """Batches of the day and the columns of each view."""
    events = bucket.read()
    time, code, user = (events[name].to_numpy() for name in ("time", "code", "user_id"))
    product, category = (_pairs(user, events[name].to_numpy()) for name in ("item_id", "category_id"))
    by_user, every = Earlier(user, time), np.ones(len(time), bool)
    local = time + _BEIJING_S
    ids = ("user_id", "item_id", "category_id")
    columns = {name: events[name].chunk(0) for name in ids} | {
        "hour": pa.array(local // 3600 % 24, pa.int8()),
        "weekday": pa.array((local // _DAY_S + 3) % 7, pa.int8()),  # Monday is 0
        "item_events": pa.array(Earlier(product, time).count(), pa.int32()),
        "category_events": pa.array(Earlier(category, time).count(), pa.int32()),
    }
    columns |= dict(_labels(product, time, code))
    columns["timestamp"] = pa.array(time).cast(pa.timestamp("s")).cast(pa.timestamp("ms"))
    day, table = pa.array((local // _DAY_S).astype(np.int32)).cast(pa.date32()), pa.table(columns)
    steps = dict(zip(HISTORIES, (events["item_id"].to_numpy(), events["category_id"].to_numpy(), code), strict=True))
    views = np.flatnonzero(code == BEHAVIORS.index("pv"))
    for rows in np.array_split(views, -(-len(views) // _VIEWS) or 1):
        part = table.take(pa.array(rows))
        for name, values in steps.items():
            part = part.append_column(name, by_user.last(values, every, HISTORY, rows))
        yield day.take(pa.array(rows)), part.select([*IDS, *HISTORIES, *DENSE, *LABELS, "timestamp"])


def _pairs(user: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A number for each different pair."""
    codes = [np.unique(ids, return_inverse=True)[1] for ids in (user, other)]
    return codes[0] * (codes[1].max() + 1) + codes[1]


def _labels(product: np.ndarray, time: np.ndarray, code: np.ndarray) -> Iterator[tuple[str, pa.Array]]:
    """Whether each behaviour with the same product follows each event in the window; null where the data end before."""
    _, group = np.unique(product, return_inverse=True)
    width = _END - _START + WINDOW_S + 1  # so that a window ends before the next group's numbers begin
    place = group * width + time - _START
    for name in LABELS:
        happened = np.sort(place[code == BEHAVIORS.index(name)])
        following = np.append(happened, np.iinfo(np.int64).max)[np.searchsorted(happened, place)]
        yield name, pa.array(following <= place + WINDOW_S, mask=time + WINDOW_S > _END).cast(pa.int8())


def _config(counts: dict[str, ValueCounts], moments: DenseMoments, root: str) -> dict[str, Any]:
    """The configuration for the converted files."""
    features: dict[str, Any] = {name: {"kind": "id"} for name in IDS}
    for name, table in HISTORIES.items():
        features[name] = {"kind": "sequence", "table": table, "max_length": HISTORY}
    for name in ("hour", "weekday"):
        features[name]["side"] = "user"
    return {
        "name": "taobao",
        "data": {
            "path": join_path(root, _SPLIT),
            "train": {"start": FIRST_DAY, "end": TRAIN_END},
            "eval": {"start": EVAL_DAY, "end": EVAL_DAY},
            "group": "user_id",
            "timestamp": "timestamp",
        },
        "features": features | moments.features(),
        "table_defaults": {"dim": 16},
        "tables": {
            # room for all: an item is also looked up in histories, so that even a rare one is often admitted
            **{name: map_table(counts[name].values(), ADMIT_COUNT) for name in ("user_id", "item_id")},
            "category_id": hash_table(counts["category_id"].values()),
            "hour": {"rows": 24, "id_space": "direct"},
            "weekday": {"rows": 7, "id_space": "direct"},
            "behavior": {"rows": len(BEHAVIORS), "id_space": "direct"},
        },
        "tasks": {name: {"kind": "binary", "delay_days": 1} for name in LABELS},
        "model": {"preset": "mmoe", "sequence": {"type": "pooled"}},
        "train": {"epochs": 1},
    }
