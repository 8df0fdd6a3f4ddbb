"""Logs of different shapes, with the use of every column: what `raymtl init` should find out by itself."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAYS = 4
ROWS = 40_013
START = dt.date(2026, 1, 29)


@dataclass(frozen=True)
class Logs:
    """A data set."""

    path: str
    uses: dict[str, str]
    """By column, as `raymtl init` names them."""
    label: str
    """The task whose AUC is compared."""


def write_parquet(path: Path, columns: dict, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)


def _world(random: np.random.Generator, rows: int, users: int = 3000, items: int = 800) -> dict[str, np.ndarray]:
    """Users, items, a context and the probability of a click, from one taste."""
    taste, look = np.random.default_rng(1).normal(0, 1, (users, 4)), np.random.default_rng(2).normal(0, 1, (items, 4))
    user = (users * random.random(rows) ** 2).astype(int)
    item = (items * random.random(rows) ** 2).astype(int)
    hour, price = random.integers(0, 24, rows), np.exp(random.normal(2, 1, rows))
    logit = -1.7 + 0.5 * (taste[user] * look[item]).sum(1) + 0.3 * np.sin(hour / 4) - 0.4 * (np.log(price) - 2)
    click = random.random(rows) < 1 / (1 + np.exp(-logit))
    buy = click & (random.random(rows) < 0.3)
    return {"user": user, "item": item, "hour": hour, "price": price, "click": click, "buy": buy}


def hive(root: Path) -> Logs:
    """Folders `dt=20260129/country=de`, string IDs, two tasks, one impression time."""
    for number in range(DAYS):
        day = START + dt.timedelta(days=number)
        for n, country in enumerate(("de", "fr")):
            random = np.random.default_rng([3, number, n])
            w = _world(random, ROWS // 7 + 11 * n)
            begin = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
            columns = {
                "userId": [f"u{u:05d}" for u in w["user"]],
                "itemId": [f"i{i:05d}" for i in w["item"]],
                "eventTime": pa.array(begin + random.integers(0, 86_400, len(w["user"]))),
                "hourOfDay": w["hour"],
                "itemPrice": w["price"],
                "deviceType": random.choice(["ios", "android", "web"], len(w["user"])),
                "isClicked": w["click"],
                "isPurchased": w["buy"],
            }
            write_parquet(root / f"dt={day:%Y%m%d}" / f"country={country}" / "000000_0", columns)
    uses = {
        "userId": "group",
        "itemId": "id",
        "eventTime": "time",
        "hourOfDay": "id",
        "itemPrice": "dense",
        "deviceType": "id",
    }
    return Logs(str(root), uses | {"isClicked": "label", "isPurchased": "label", "country": "id"}, "isClicked")


def flat(root: Path) -> Logs:
    """One folder of files without days: 300 columns, most of them noise, a time stamp."""
    uses: dict[str, str] = {}
    for n in range(3):
        random = np.random.default_rng([4, n])
        w = _world(random, ROWS // 3 + n)
        rows = len(w["user"])
        begin = np.datetime64("2026-01-29", "us")
        columns = {
            "ts": begin + (random.random(rows) * 4 * 86_400e6).astype("timedelta64[us]"),
            "member_id": w["user"] + 10_000_000,
            "ad_id": w["item"],
            "price": w["price"],
            "hour": w["hour"],
            "log_id": np.arange(rows) + n * 10_000_000,
            "version": np.repeat("v3", rows),
            "converted": w["buy"].astype(np.int8),
            "clk": w["click"].astype(np.int8),
            "landing_seconds": np.where(w["click"], random.gamma(2, 20, rows), 0.0),
        }
        uses = {"ts": "time", "member_id": "group", "ad_id": "id", "price": "dense", "hour": "id", "log_id": "ignore"}
        uses |= {"version": "ignore", "converted": "label", "clk": "label", "landing_seconds": "ignore"}
        for k in range(290):
            if k % 3 == 0:
                columns[f"num_{k}"], uses[f"num_{k}"] = random.normal(0, 1 + k, rows).astype(np.float32), "dense"
            elif k % 3 == 1:
                columns[f"cat_{k}"], uses[f"cat_{k}"] = random.integers(0, 5 + k, rows), "id"
            else:
                columns[f"seg_{k}"], uses[f"seg_{k}"] = (
                    np.array([f"s{v}" for v in range(40)])[random.integers(0, 40, rows)],
                    "id",
                )
        write_parquet(root / f"part-{n}.parquet", columns)
    return Logs(str(root), uses, "clk")


def vectors(root: Path) -> Logs:
    """A content embedding, a nested struct, lists, a pandas ID, NaN, a column of one value, nulls."""
    for number in range(DAYS):
        random = np.random.default_rng([5, number])
        w = _world(random, ROWS // 4 + number)
        rows = len(w["user"])
        lengths = random.integers(0, 6, rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        hist = random.integers(0, 800, offsets[-1])
        columns = {
            "visitor_id": w["user"],
            "video_id": w["item"],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(random.normal(0, 1, rows * 8).astype(np.float32)), 8
            ),
            "context": pa.array([{"os": "ios"}] * rows),
            "recent_videos": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(hist)),
            "topics": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(hist % 20)),
            "author_id": pa.array((w["item"] % 100).astype(float), mask=w["item"] % 7 == 0),
            "video_seconds": random.gamma(3, 40, rows).astype(np.float32),
            "cosine": np.where(w["hour"] == 3, np.nan, random.random(rows)),
            "tab": random.choice(["home", "follow", "search"], rows),
            "slot": random.integers(1, 11, rows),
            "hour": w["hour"],
            "price": pa.array(w["price"], mask=random.random(rows) < 0.1),
            "watch_time": np.where(w["click"], random.gamma(2, 30, rows), 0.0).astype(np.float32),
            "is_click": w["click"].astype(np.int64),
            "is_like": w["buy"].astype(np.int64),
        }
        write_parquet(root / f"date={START + dt.timedelta(days=number)}" / "a.parquet", columns)
    uses = {
        "visitor_id": "group",
        "video_id": "id",
        "embedding": "vector",
        "context": "ignore",
        "recent_videos": "sequence",
    }
    uses |= {"topics": "ids", "author_id": "id", "video_seconds": "dense", "cosine": "ignore", "tab": "scenario"}
    uses |= {
        "slot": "bias",
        "hour": "id",
        "price": "dense",
        "watch_time": "label",
        "is_click": "label",
        "is_like": "label",
    }
    return Logs(str(root), uses, "is_click")


def _day_of_table(number: int) -> pa.Table:
    day = START + dt.timedelta(days=number)
    w = _world(np.random.default_rng([6, number]), ROWS // 4 + number)
    rows = len(w["user"])
    return pa.table(
        {
            "day": pa.array([day] * rows, pa.date32()),
            "customer_id": w["user"],
            "product_id": [f"p{i}" for i in w["item"]],
            "hour": w["hour"],
            "unit_price": w["price"],
            "clicked": w["click"],
            "bought": w["buy"],
        }
    )


_OF_TABLE = {
    "customer_id": "group",
    "product_id": "id",
    "hour": "id",
    "unit_price": "dense",
    "clicked": "label",
    "bought": "label",
}


def delta(root: Path) -> Logs:
    """A table of Delta Lake, partitioned by a date, of which a user's rows were deleted."""
    import deltalake

    for number in range(DAYS):
        deltalake.write_deltalake(str(root), _day_of_table(number), partition_by=["day"], mode="append")
    deltalake.DeltaTable(str(root)).delete("customer_id = 7")
    return Logs(str(root), _OF_TABLE, "clicked")


def iceberg(root: Path) -> Logs:
    """A table of Apache Iceberg, partitioned by a date."""
    from pyiceberg.catalog.sql import SqlCatalog

    root.mkdir(parents=True)
    catalog = SqlCatalog("made", uri=f"sqlite:///{root}/catalog.db", warehouse=f"file://{root}")
    catalog.create_namespace("logs")
    table = catalog.create_table("logs.views", _day_of_table(0).schema)
    with table.update_spec() as spec:
        spec.add_identity("day")
    for number in range(DAYS):
        table.append(_day_of_table(number))
    return Logs(table.location().removeprefix("file://"), _OF_TABLE, "clicked")


MADE: dict[str, Callable[[Path], Logs]] = {
    "hive": hive,
    "flat": flat,
    "vectors": vectors,
    "delta": delta,
    "iceberg": iceberg,
}
