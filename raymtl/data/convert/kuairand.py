"""Convert KuaiRand (Kuaishou's short videos): daily logs of up to 322 million impressions with eight kinds of feedback.

The files of the versions Pure, 1K and 27K differ in their size only. The logs are read in batches; users and videos stay in
memory. The statistics of the videos are not used: they are averages of the whole month, so they know the future.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.convert.partitions import DenseMoments, PartitionWriter, ValueCounts, hash_table, map_table, start_over
from raymtl.data.convert.side_table import SideTable
from raymtl.data.convert.text_table import Lines, TextTable
from raymtl.data.writing import OutputFolder, write_config
from raymtl.errors import DataError
from raymtl.storage.paths import join_path

LABELS = (
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "is_profile_enter",
)
"""The feedback of one impression: 0 or 1, and observed for all."""

LOG = ("user_id", "video_id", "date", "hourmin", "time_ms", *LABELS, "duration_ms", "tab")
"""Columns that are read of the logs."""

USER_WORDS = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{n}" for n in range(18)),
)
"""Columns of the users with few values; they become string IDs."""

USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")

VIDEO = ("video_id", "author_id", "video_type", "upload_type", "music_id", "music_type", "tag")
"""Columns that are read of the videos; `tag` becomes the list `tags`."""

MAPPED = ("user_id", "video_id", "author_id", "music_id")
"""Columns with many values that come and go."""
ADMIT_COUNT = 5

IDS = (
    *("user_id", "video_id", "author_id", "music_id", "video_type", "upload_type", "music_type"),
    *("hour", "tab"),
    *USER_WORDS,
)
DENSE = dict.fromkeys((*USER_NUMBERS, "duration_ms"), "log1p")

_PHASES = {"4_08_to_4_21": "standard", "4_22_to_5_08": "standard", "random": "random"}
_SITE = "https://kuairand.com"
_HEADER = """\
KuaiRand-{version} (Kuaishou, CC BY-SA 4.0), converted by `raymtl convert kuairand`.
Tasks: eight kinds of feedback to videos that the standard policy recommended; scenario: the tab of the app.
For the same model on videos that were shown at random: --set data.eval_path={random}"""


def convert_kuairand(source: str, out: str) -> str:
    """Convert the files of folder `source` to daily logs in `out/standard` and `out/random`; returns `out/config.yaml`.

    Columns written: `IDS`, `tags` (list of int64), `DENSE` (raw), the `LABELS` (int8, never null) and `timestamp`. A day is
    that of the column `date`. Raises DataError, with file, line and value, if the files are not those of KuaiRand.
    """
    folder, version = _locate(source)
    logs = {phase: _logs(folder, version, phase) for phase in _PHASES}
    users = SideTable(
        _table(folder, f"user_features_{version}.csv", ("user_id", *USER_WORDS, *USER_NUMBERS)),
        "user_id",
        _user_columns,
    )
    videos = SideTable(_table(folder, f"video_features_basic_{version}.csv", VIDEO), "video_id", _video_columns)
    target = OutputFolder.open(out)
    start_over(target, "kuairand", set(_PHASES.values()))
    writers = {split: PartitionWriter(target, split) for split in set(_PHASES.values())}
    counts = {name: ValueCounts() for name in (*IDS, "tags")}
    moments, days = DenseMoments(DENSE), {}
    for phase, files in logs.items():
        writer, before = writers[_PHASES[phase]], set(writers[_PHASES[phase]].rows)
        for day, table in (pair for file in files for pair in _impressions(file, users, videos)):
            writer.write_days(day, table)
            if phase == "4_08_to_4_21":
                _measure(table, counts, moments)
        days[phase] = sorted(set(writer.rows) - before)
        if not days[phase]:
            raise files[0].error("has no rows of days that the earlier logs lack")
    for writer in writers.values():
        writer.fill_days()
        writer.close()
    config = _config(counts, moments, days, target.path)
    names = {"pure": "Pure", "1k": "1K", "27k": "27K"}
    header = _HEADER.format(version=names[version], random=target.path_of("random"))
    return write_config(config, target, header)


def _locate(source: str) -> tuple[str, str]:
    """The folder with the files, and the version that their names end in."""
    if not os.path.isdir(source):
        raise DataError(
            f"kuairand: the source folder `{source}` does not exist; pass the folder of KuaiRand-Pure, 1K or 27K"
        )
    for folder in (source, os.path.join(source, "data")):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        found = sorted({m[1] for n in names if (m := re.fullmatch(r"user_features_(pure|1k|27k)\.csv", n))})
        if len(found) > 1:
            raise DataError(
                f"kuairand: folder `{folder}` has the files of {' and '.join(found)}; move one of them away"
            )
        if found:
            return folder, found[0]
    raise DataError(
        f"kuairand: folder `{source}` has no user_features_pure.csv, user_features_1k.csv or user_features_27k.csv; "
        f"download the data from {_SITE}"
    )


def _logs(folder: str, version: str, phase: str) -> list[TextTable]:
    """The files of one phase; 27K has two parts of each of the standard logs."""
    kind = "random_4_22_to_5_08" if phase == "random" else f"standard_{phase}"
    pattern = rf"log_{kind}_{version}(_part\d+)?\.csv"
    names = sorted(name for name in os.listdir(folder) if re.fullmatch(pattern, name))
    if not names:
        raise DataError(
            f"kuairand: folder `{folder}` has no log_{kind}_{version}.csv; download the data again from {_SITE}"
        )
    return [_table(folder, name, LOG) for name in names]


def _table(folder: str, name: str, columns: tuple[str, ...]) -> TextTable:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise DataError(f"kuairand: folder `{folder}` has no {name}; download the data again from {_SITE}")
    return TextTable("kuairand", path, columns, _SITE, header=True, quotes=True)


def _user_columns(lines: Lines) -> dict[str, pa.Array]:
    numbers = {name: lines.numbers(name) for name in USER_NUMBERS}
    return {name: lines.words(name) for name in USER_WORDS} | numbers


def _video_columns(lines: Lines) -> dict[str, pa.Array]:
    ids = {name: lines.integers(name, low=-(2**62), nullable=True) for name in ("author_id", "music_id")}
    words = {name: lines.words(name) for name in ("video_type", "upload_type", "music_type")}
    tag = lines.columns["tag"]
    lines.require(
        "tag", pc.match_substring_regex(tag, r"^(-?[0-9]{1,9}(\.0)?(,[0-9]{1,9})*)?$"), "integers with commas between"
    )
    tags = pc.split_pattern(pc.replace_substring(pc.if_else(pc.equal(tag, ""), None, tag), ".0", ""), ",")
    return ids | words | {"tags": tags.cast(pa.list_(pa.int64()))}


def _impressions(file: TextTable, users: SideTable, videos: SideTable) -> Iterator[tuple[pa.Array, pa.Table]]:
    """Batches of the day and the columns of each impression."""
    for lines in file.batches():
        day = pc.strptime(lines.columns["date"], format="%Y%m%d", unit="s", error_is_null=True)
        shape = pc.match_substring_regex(lines.columns["date"], "^20[0-9]{6}$")
        lines.require("date", pc.and_(shape, day.is_valid()), "a date such as 20220421")
        user, video = lines.integers("user_id"), lines.integers("video_id")
        columns = {"user_id": user, "video_id": video} | users.columns_of(user) | videos.columns_of(video)
        columns |= {
            "hour": pc.divide(lines.integers("hourmin", high=2359), 100).cast(pa.int8()),
            "tab": lines.integers("tab", high=1000).cast(pa.int16()),
            "duration_ms": lines.numbers("duration_ms"),
            "timestamp": lines.integers("time_ms", 10**12, 10**13).cast(pa.timestamp("ms")),
        }
        columns |= {name: lines.labels(name) for name in LABELS}
        yield day.cast(pa.date32()), pa.table(columns).select([*IDS, "tags", *DENSE, *LABELS, "timestamp"])


def _measure(table: pa.Table, counts: dict[str, ValueCounts], moments: DenseMoments) -> None:
    moments.add(table)
    for name, count in counts.items():
        count.add(pc.list_flatten(table[name]) if name == "tags" else table[name])


def _config(
    counts: dict[str, ValueCounts], moments: DenseMoments, days: dict[str, list[str]], root: str
) -> dict[str, Any]:
    """The configuration for the converted files: the first standard log is trained on, the second one evaluated."""
    train, evaluation = days["4_08_to_4_21"], days["4_22_to_5_08"]
    features: dict[str, Any] = {name: {"kind": "id"} for name in IDS} | {"tags": {"kind": "ids"}} | moments.features()
    for name in ("user_id", "hour", "tab", *USER_WORDS, *USER_NUMBERS):
        features[name]["side"] = "user"
    return {
        "name": "kuairand",
        "data": {
            "path": join_path(root, "standard"),
            "train": {"start": train[0], "end": train[-1]},
            "eval": {"start": evaluation[0], "end": evaluation[-1]},
            "scenario": {"column": "tab", "values": counts["tab"].values().to_pylist()},
            "group": "user_id",
            "timestamp": "timestamp",
        },
        "features": features,
        "table_defaults": {"dim": 16},
        "tables": {
            name: map_table(count.values(ADMIT_COUNT), ADMIT_COUNT) if name in MAPPED else hash_table(count.values())
            for name, count in counts.items()
        },
        "tasks": {name: {"kind": "binary"} for name in LABELS},
        "model": {"preset": "mmoe"},
        "train": {"epochs": 1},
    }
