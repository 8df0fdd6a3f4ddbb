"""Convert Criteo's attribution data: 16 million impressions of 30 days, with clicks, sales in 30 days, and attributed sales."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.convert.partitions import DenseMoments, PartitionWriter, ValueCounts, hash_table, map_table, start_over
from raymtl.data.convert.text_table import TextTable, find_file
from raymtl.data.writing import OutputFolder, write_config
from raymtl.storage.paths import join_path

CATEGORIES = tuple(f"cat{n}" for n in range(1, 10))
IDS = ("uid", "campaign", *CATEGORIES, "hour")
DENSE = {"time_since_last_click": "log1p"}
LABELS = ("click", "sale", "last_click_sale")
"""Clicked; a sale of the advertiser in the 30 days after the impression; clicked last before a sale that Criteo is paid for."""

COLUMNS = (
    *("timestamp", "uid", "campaign", "conversion", "attribution", "click", "click_pos", "click_nb"),
    *("time_since_last_click", *CATEGORIES),
)
"""Columns that are read; the others are outcomes."""

FIRST_DAY = "2017-01-01"
"""Stands for the first day, since the data set has only the seconds from its beginning."""
TRAIN_DAYS = 24

ADMIT_COUNT = 5
_DAY_S = 86_400
_MOST_DAYS = 40
_NAME, _SPLIT = "criteo_attribution_dataset.tsv", "logs"
_SITE = "https://huggingface.co/datasets/criteo/criteo-attribution-dataset"
_HEADER = """\
Criteo attribution modelling for bidding (CC BY-NC-SA 4.0), converted by `raymtl convert criteo_attribution`.
Tasks: click; a sale in the 30 days after the impression, clicked or not; an attributed sale whose last click this is.
The days are counted from 2017-01-01: the data set hides its dates."""


def convert_criteo_attribution(source: str, out: str) -> str:
    """Convert `criteo_attribution_dataset.tsv.gz` of folder `source` to `out/logs`; returns the path of `out/config.yaml`.

    Columns written: `IDS` (int64), `DENSE` (null where the user has not clicked yet), the `LABELS` (int8, never null) and
    `timestamp`. Raises DataError, with line and value, if the file is another one.
    """
    path = find_file("criteo_attribution", source, [f"{_NAME}.gz", _NAME], _SITE)
    file = TextTable("criteo_attribution", path, COLUMNS, _SITE, delimiter="\t", header=True)
    folder = OutputFolder.open(out)
    start_over(folder, "criteo_attribution", [_SPLIT])
    writer = PartitionWriter(folder, _SPLIT)
    counts, moments = {name: ValueCounts() for name in IDS}, DenseMoments(DENSE)
    last = pa.scalar(np.datetime64(FIRST_DAY).astype(int) + TRAIN_DAYS - 1, pa.int32()).cast(pa.date32())
    for day, table in _impressions(file):
        writer.write_days(day, table)
        trained = table.filter(pc.less_equal(day, last))
        moments.add(trained)
        for name, count in counts.items():
            count.add(trained[name])
    days = sorted(writer.rows)
    if len(days) < 2:
        raise file.error("has less than two days")
    days = sorted(days + writer.fill_days())
    writer.close()
    return write_config(_config(counts, moments, days, folder.path), folder, _HEADER)


def _impressions(file: TextTable) -> Iterator[tuple[pa.Array, pa.Table]]:
    """Batches of the day and the columns of each impression."""
    first = int(np.datetime64(FIRST_DAY, "s").astype(np.int64))
    for lines in file.batches():
        time = lines.integers("timestamp", high=_MOST_DAYS * _DAY_S).to_numpy()
        since = lines.integers("time_since_last_click", low=-1)
        click, attribution = lines.labels("click"), lines.labels("attribution")
        position, clicks = (lines.integers(name, low=-1) for name in ("click_pos", "click_nb"))
        last = pc.and_(pc.equal(attribution, 1), pc.equal(position, pc.subtract(clicks, 1)))
        columns = {name: lines.integers(name, low=-(2**62)) for name in ("uid", "campaign", *CATEGORIES)}
        columns |= {
            "hour": pa.array(time // 3600 % 24, pa.int8()),
            "time_since_last_click": pc.if_else(pc.less(since, 0), None, since),
            "click": click,
            "sale": lines.labels("conversion"),
            # only a click is paid for
            "last_click_sale": pc.and_(last, pc.equal(click, 1)).cast(pa.int8()),
            "timestamp": pa.array(time + first).cast(pa.timestamp("s")).cast(pa.timestamp("ms")),
        }
        day = pa.array(((time + first) // _DAY_S).astype(np.int32)).cast(pa.date32())
        yield day, pa.table(columns)


def _config(counts: dict[str, ValueCounts], moments: DenseMoments, days: list[str], root: str) -> dict[str, Any]:
    """The configuration for the converted files; of fewer days than the original has, the last one is evaluated."""
    train = min(TRAIN_DAYS, len(days) - 1)
    features: dict[str, Any] = {name: {"kind": "id"} for name in IDS} | moments.features()
    for name in ("uid", "hour", *DENSE):
        features[name]["side"] = "user"
    return {
        "name": "criteo_attribution",
        "data": {
            "path": join_path(root, _SPLIT),
            "train": {"start": days[0], "end": days[train - 1]},
            "eval": {"start": days[train], "end": days[-1]},
            "group": "uid",
            "timestamp": "timestamp",
        },
        "features": features,
        "table_defaults": {"dim": 16},
        "tables": {
            name: map_table(count.values(ADMIT_COUNT), ADMIT_COUNT) if name == "uid" else hash_table(count.values())
            for name, count in counts.items()
        }
        | {"hour": {"rows": 24, "id_space": "direct"}},
        "tasks": {
            "click": {"kind": "binary"},
            "last_click_sale": {"kind": "binary", "parent": "click"},
            "sale": {"kind": "binary"},
        },
        "model": {"preset": "mmoe"},
        "train": {"epochs": 1},
    }
