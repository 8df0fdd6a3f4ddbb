"""Convert Tenrec (Tencent's videos): the benchmark file of 120 million impressions, or the two video scenarios.

The files have no times, so that training, validation and test rows are drawn at random, as in the authors' benchmark.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from raymtl.data.convert.partitions import PartitionWriter, ValueCounts, hash_table, map_table, start_over
from raymtl.data.convert.text_table import TextTable
from raymtl.data.ids.hashing import mix64
from raymtl.data.writing import OutputFolder, write_config
from raymtl.errors import DataError
from raymtl.storage.paths import join_path

BENCHMARK = "ctr_data_1M.csv"
"""The impressions of a million users of QK-video, with ten earlier clicks of each user."""
SCENARIOS = ("QK-video", "QB-video")
"""The files of whole scenarios, without histories."""

IDS = ("user_id", "item_id", "video_category", "gender", "age")
LABELS = ("click", "follow", "like", "share")
STEPS = tuple(f"hist_{n}" for n in range(1, 11))
"""Columns of the benchmark file, which become the list `history`; 0 stands for no click."""

ADMIT_COUNT = 5
SPLITS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}
"""Tenths of the rows."""

_SITE = "https://github.com/yuangh-x/2022-NIPS-Tenrec"
_DAY = "2021-01-01"  # the files have no dates
_HEADER = """\
Tenrec ({files}; CC BY-NC 4.0), converted by `raymtl convert tenrec`.
Tasks: click, and follow, like and share of what was clicked, on all impressions.
A tenth of the rows each is in valid and test, drawn at random, as in the authors' benchmark."""


def convert_tenrec(source: str, out: str) -> str:
    """Convert `ctr_data_1M.csv` of folder `source`, or else `QK-video.csv` and `QB-video.csv`; returns `out/config.yaml`.

    Columns written: `IDS` (int64), `scenario`, of the benchmark file also `history` (list of int64, oldest first), and the
    `LABELS` (int8, never null). Raises DataError, with file, line and value, if the files are not those of Tenrec.
    """
    files = _files(source)
    history = BENCHMARK in files
    folder = OutputFolder.open(out)
    start_over(folder, "tenrec", SPLITS)
    writers = {split: PartitionWriter(folder, split) for split in SPLITS}
    counts = {name: ValueCounts() for name in (*IDS, "scenario")}
    first = 0
    for name, path in files.items():
        columns = ("user_id", "item_id", *LABELS, *IDS[2:], *(STEPS if history else ()))
        file = TextTable("tenrec", path, columns, _SITE, header=True)
        for table in _impressions(file, "QK-video" if history else name.removesuffix(".csv"), history):
            tenth = mix64(np.arange(first, first + table.num_rows)) % np.uint64(10)
            first += table.num_rows
            for split, tenths in SPLITS.items():
                part = table.take(pa.array(np.flatnonzero(np.isin(tenth, tenths))))
                writers[split].write(_DAY, part)
                if split == "train":
                    for column, count in counts.items():
                        count.add(part[column])
    for writer in writers.values():
        writer.close()
    if not first:
        raise file.error("has no rows")
    header = _HEADER.format(files=", ".join(files))
    return write_config(_config(counts, history, folder.path), folder, header)


def _files(source: str) -> dict[str, str]:
    names = (BENCHMARK, *(f"{scenario}.csv" for scenario in SCENARIOS))
    if not os.path.isdir(source):
        raise DataError(f"tenrec: the source folder `{source}` does not exist; pass the folder that holds {names[0]}")
    paths = {name: os.path.join(source, name) for name in names if os.path.isfile(os.path.join(source, name))}
    if not paths:
        raise DataError(f"tenrec: folder `{source}` has none of {list(names)}; download Tenrec from {_SITE}")
    return {BENCHMARK: paths[BENCHMARK]} if BENCHMARK in paths else paths


def _impressions(file: TextTable, scenario: str, history: bool) -> Iterator[pa.Table]:
    for lines in file.batches():
        columns: dict[str, pa.Array] = {name: lines.integers(name) for name in IDS[:2]}
        columns |= {name: lines.integers(name, low=-1, nullable=True) for name in IDS[2:]}
        columns["scenario"] = pa.repeat(scenario, len(lines)).dictionary_encode()
        if history:
            steps = np.stack([lines.integers(name, nullable=True).fill_null(0).to_numpy() for name in STEPS], axis=1)
            offsets = np.concatenate([[0], np.cumsum((steps > 0).sum(axis=1))])
            columns["history"] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(steps[steps > 0]))
        yield pa.table(columns | {name: lines.labels(name) for name in LABELS})


def _config(counts: dict[str, ValueCounts], history: bool, root: str) -> dict[str, Any]:
    """The configuration for the converted files."""
    features: dict[str, Any] = {name: {"kind": "id"} for name in (*IDS, "scenario")}
    model: dict[str, Any] = {"preset": "mmoe"}
    for name in ("user_id", "gender", "age", "scenario"):
        features[name]["side"] = "user"
    if history:
        features["history"] = {"kind": "sequence", "table": "item_id", "max_length": len(STEPS)}
        model["sequence"] = {"type": "pooled"}
    scenarios = counts["scenario"].values().to_pylist()
    day = {"start": _DAY, "end": _DAY}
    return {
        "name": "tenrec",
        "data": {
            "path": join_path(root, "train"),
            "train": day,
            "eval": day,
            "eval_path": join_path(root, "test"),
            "scenario": {"column": "scenario", "values": [s for s in SCENARIOS if s in scenarios]},
            "group": "user_id",
        },
        "features": features,
        "table_defaults": {"dim": 32},
        "tables": {
            # room for all: an item is also looked up in histories, so that even a rare one is often admitted
            name: map_table(count.values(), ADMIT_COUNT) if name in IDS[:2] else hash_table(count.values())
            for name, count in counts.items()
        },
        "tasks": {"click": {"kind": "binary"}} | {name: {"kind": "binary", "parent": "click"} for name in LABELS[1:]},
        "model": model,
        "train": {"epochs": 1},
    }
