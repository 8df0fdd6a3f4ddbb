"""Convert Ali-CCP (Taobao's clicks and conversions): 85 million impressions, read in batches.

Each impression names a line of a second file with the features that its user's impressions share. Only that file's IDs of the
user are kept in memory, about 100 bytes for each of its lines (730,000 in the training part).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.convert.partitions import PartitionWriter, ValueCounts, hash_table, map_table, start_over
from raymtl.data.convert.text_table import Lines, TextTable, find_file
from raymtl.data.writing import OutputFolder, write_config
from raymtl.errors import DataError
from raymtl.storage.paths import join_path

USER_FIELDS = {
    "101": "user_id",
    "121": "user_profile",
    "122": "user_group",
    "124": "user_gender",
    "125": "user_age",
    "126": "user_consumption_1",
    "127": "user_consumption_2",
    "128": "user_occupied",
    "129": "user_geography",
}
"""Fields of the common features that are kept, and their columns."""

ITEM_FIELDS = {
    "205": "item_id",
    "206": "item_category",
    "207": "item_shop",
    "216": "item_brand",
    "508": "user_category",
    "509": "user_shop",
    "702": "user_brand",
    "301": "position",
}
"""Fields of the impressions with one ID, and their columns; 508, 509 and 702 combine a history with the item."""

LIST_FIELDS = {"210": "item_intentions", "853": "user_intentions"}
"""Fields of the impressions with several IDs."""

MAPPED = (
    "user_id",
    "item_id",
    "item_category",
    "item_shop",
    "item_brand",
    "user_category",
    "user_shop",
    "user_brand",
    "user_intentions",
)
"""Columns with many values, most of them rare."""

ADMIT_COUNT = 12
"""Occurrences in the training data from which an ID has its own row: as in the published preprocessing (of AITM)."""

SKELETON = ("sample_id", "click", "conversion", "common_feature_index", "feature_num", "feature_list")
COMMON = ("common_feature_index", "feature_num", "feature_list")

_SITE = "https://tianchi.aliyun.com/dataset/408"
_DAY = "2018-01-01"  # the data set has no dates
_COLUMNS = (*USER_FIELDS.values(), *ITEM_FIELDS.values())
_HEADER = """\
Ali-CCP (Alibaba click and conversion prediction), converted by `raymtl convert aliccp`.
Tasks: click, and conversion (a click and then a purchase) on all impressions.
Published numbers to compare with are in docs/results.md; the sizes of the model are TorchEasyRec's."""


def convert_aliccp(source: str, out: str) -> str:
    """Convert the four files of folder `source` to `out/train` and `out/test`; returns the path of `out/config.yaml`.

    Columns written: one int64 ID for each of `USER_FIELDS` and `ITEM_FIELDS` (null where the impression lacks it), a list of
    them for each of `LIST_FIELDS`, and the labels `click` and `conversion` (int8, never null). Impressions with a conversion
    but no click are left out. Raises DataError, with file, line and value, if a file is not that of Ali-CCP.
    """
    files = {split: _files(source, split) for split in ("train", "test")}
    folder = OutputFolder.open(out)
    start_over(folder, "aliccp", files)
    counts = {name: ValueCounts() for name in (*_COLUMNS, *LIST_FIELDS.values())}
    for split, (skeleton, common) in files.items():
        users, writer = _Users.read(common), PartitionWriter(folder, split)
        for lines in skeleton.batches():
            table = _impressions(lines, users)
            writer.write(_DAY, table)
            if split == "train":
                for name, count in counts.items():
                    column = table[name]
                    count.add(pc.list_flatten(column) if pa.types.is_list(column.type) else column)
        writer.close()
        if not writer.rows.get(_DAY):
            raise skeleton.error("has no impressions")
    return write_config(_config(counts, folder.path), folder, _HEADER)


def _files(source: str, split: str) -> tuple[TextTable, TextTable]:
    """Impressions and common features; they may be in the folder of their archive."""
    paths = []
    for name in (f"sample_skeleton_{split}.csv", f"common_features_{split}.csv"):
        places = [os.path.join(folder, name) for folder in ("", f"sample_{split}", split)]
        paths.append(find_file("aliccp", source, places, _SITE))
    return TextTable("aliccp", paths[0], SKELETON, _SITE), TextTable("aliccp", paths[1], COMMON, _SITE)


@dataclass(frozen=True)
class _Users:
    """The IDs of the users, one row per line of the common features."""

    path: str
    keys: pa.Array
    columns: dict[str, pa.Array]

    @classmethod
    def read(cls, file: TextTable) -> "_Users":
        keys, parts = [], []
        for lines in file.batches():
            keys.append(lines.columns["common_feature_index"])
            parts.append(pa.table(dict(_single_ids(_Tokens.of(lines), USER_FIELDS))))
        if not keys:
            raise file.error("is empty")
        table = pa.concat_tables(parts)
        return cls(file.path, pa.concat_arrays(keys), {n: table[n].combine_chunks() for n in table.column_names})

    def places(self, lines: Lines) -> pa.Array:
        """The row of each impression's user."""
        places = pc.index_in(lines.columns["common_feature_index"], self.keys)
        lines.require("common_feature_index", places.is_valid(), f"in `{self.path}`")
        return places


def _impressions(lines: Lines, users: _Users) -> pa.Table:
    click, conversion = lines.labels("click"), lines.labels("conversion")
    places = users.places(lines)
    columns: dict[str, pa.Array] = {name: column.take(places) for name, column in users.columns.items()}
    tokens = _Tokens.of(lines)
    columns |= dict(_single_ids(tokens, ITEM_FIELDS)) | dict(_id_lists(tokens, LIST_FIELDS))
    table = pa.table(columns | {"click": click, "conversion": conversion})
    # a purchase of the same item on another way; every published preprocessing leaves these few rows out
    return table.filter(pc.greater_equal(click, conversion))


@dataclass(frozen=True)
class _Tokens:
    """The features of a batch: the row of each, its field and its ID."""

    lines: Lines
    row: np.ndarray
    field: pa.DictionaryArray
    id: pa.Array

    @classmethod
    def of(cls, lines: Lines) -> "_Tokens":
        text = lines.columns["feature_list"]
        # field, \x02, ID, \x03, value; joined by \x01
        flat = pc.replace_substring(pc.replace_substring(text, "\x01", "\x02"), "\x03", "\x02")
        parts = pc.split_pattern(flat, "\x02")
        lengths = pc.list_value_length(parts).to_numpy()
        lines.require("feature_list", pa.array(lengths % 3 == 0), "triples of field, ID and value")
        pieces = parts.flatten()
        first = np.arange(0, len(pieces), 3)
        row = np.repeat(np.arange(len(lines)), lengths // 3)
        return cls(lines, row, pieces.take(pa.array(first)).dictionary_encode(), pieces.take(pa.array(first + 1)))

    def of_field(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows and IDs of one field, in their order."""
        code = pc.index(self.field.dictionary, name).as_py()
        chosen = np.flatnonzero(self.field.indices.to_numpy() == code)
        row, text = self.row[chosen], self.id.take(pa.array(chosen))
        good = pc.match_substring_regex(text, "^[0-9]{1,18}$").to_numpy(zero_copy_only=False)
        valid = np.ones(len(self.lines), bool)
        valid[row[~good]] = False
        self.lines.require("feature_list", pa.array(valid), f"a list with integer IDs of field {name}")
        return row, text.cast(pa.int64()).to_numpy()


def _single_ids(tokens: _Tokens, fields: dict[str, str]) -> Iterator[tuple[str, pa.Array]]:
    """The columns of fields with one ID; where there are several, the last counts."""
    for field, name in fields.items():
        row, ids = tokens.of_field(field)
        count = len(tokens.lines)
        column, missing = np.zeros(count, np.int64), np.ones(count, bool)
        column[row], missing[row] = ids, False
        yield name, pa.array(column, mask=missing)


def _id_lists(tokens: _Tokens, fields: dict[str, str]) -> Iterator[tuple[str, pa.Array]]:
    for field, name in fields.items():
        row, ids = tokens.of_field(field)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(tokens.lines)))])
        yield name, pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids))


def _config(counts: dict[str, ValueCounts], root: str) -> dict[str, Any]:
    """The configuration for the converted files; tables are as large as the training data need."""
    day = {"start": _DAY, "end": _DAY}
    positions = counts["position"].values().to_pylist()
    if not 0 < len(positions) <= 1000:
        raise DataError(
            f"aliccp: field 301 (position) has {len(positions)} values in the training data, not a few; "
            f"download the files again from {_SITE}"
        )
    features: dict[str, Any] = {name: {"kind": "id"} for name in _COLUMNS}
    features |= {name: {"kind": "ids"} for name in LIST_FIELDS.values()}
    for name, feature in features.items():
        if name in USER_FIELDS.values():
            feature["side"] = "user"
    return {
        "name": "aliccp",
        "data": {
            "path": join_path(root, "train"),
            "train": day,
            "eval": day,
            "eval_path": join_path(root, "test"),
            "scenario": {"column": "position", "values": positions},
            "group": "user_id",
        },
        "features": features,
        "table_defaults": {"dim": 16},
        "tables": {
            name: map_table(count.values(ADMIT_COUNT), ADMIT_COUNT) if name in MAPPED else hash_table(count.values())
            for name, count in counts.items()
        },
        "tasks": {"click": {"kind": "binary"}, "conversion": {"kind": "binary", "parent": "click"}},
        "model": {
            "preset": "mmoe",
            "trunk": {"experts": 3, "hidden": [128, 64]},
            "towers": {"hidden": [128, 64]},
        },
        "train": {"epochs": 1},
    }
