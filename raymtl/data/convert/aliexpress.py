"""Convert AliExpress' search logs: up to four countries as scenarios, in the files of the Multitask-Recommendation-Library.

Most published numbers are of these files: 16 categories, 63 numbers, and the two labels of a shown product. One country alone
gives the data set of one column of the published tables.
"""

import os
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raymtl.data.convert.partitions import DenseMoments, PartitionWriter, ValueCounts, hash_table, start_over
from raymtl.data.convert.text_table import TextTable, find_file
from raymtl.data.writing import OutputFolder, write_config
from raymtl.errors import DataError
from raymtl.storage.paths import join_path

COUNTRIES = ("NL", "ES", "FR", "US")
"""Netherlands, Spain, France and the United States."""
IDS = tuple(f"categorical_{n}" for n in range(1, 17))
DENSE = tuple(f"numerical_{n}" for n in range(1, 64))
LABELS = ("click", "conversion")
USER = (*IDS[:9], *DENSE[:23])
"""Features of the user and the query, the same for all products of a page."""

_SITE = "https://github.com/easezyc/Multitask-Recommendation-Library"
_DAY = "2020-01-01"  # the files have no dates
_HEADER = """\
AliExpress search logs ({countries}), converted by `raymtl convert aliexpress`.
Tasks: click, and conversion (a click and then a purchase) on all products shown.
Published numbers to compare with are in docs/results.md; the sizes of the model are those of their MMoE."""


def convert_aliexpress(source: str, out: str) -> str:
    """Convert the folders `AliExpress_<country>` of `source` to `out/train` and `out/test`; returns `out/config.yaml`.

    Columns written: `IDS` (int64), `DENSE` (float32), `country`, `page` (the search page within all countries) and the
    labels (int8, never null). `source` may be the folder of one country, too. Raises DataError, with file, line and value.
    """
    folders = _countries(source)
    folder = OutputFolder.open(out)
    files = {split: {country: _file(path, split) for country, path in folders.items()} for split in ("train", "test")}
    start_over(folder, "aliexpress", files)
    counts, moments = {name: ValueCounts() for name in (*IDS, "country")}, DenseMoments(dict.fromkeys(DENSE, "none"))
    for split, tables in files.items():
        writer = PartitionWriter(folder, split)
        for table in _in_turn([_rows(file, country) for country, file in tables.items()]):
            writer.write(_DAY, table)
            if split == "train":
                moments.add(table)
                for name, count in counts.items():
                    count.add(table[name])
        writer.close()
        if not writer.rows.get(_DAY):
            raise next(iter(tables.values())).error("has no rows")
    header = _HEADER.format(countries=", ".join(folders))
    return write_config(_config(counts, moments, list(folders), folder.path), folder, header)


def _countries(source: str) -> dict[str, str]:
    """The folder of each country that is there."""
    name = os.path.basename(os.path.abspath(source))
    own = {country: source for country in COUNTRIES if name == f"AliExpress_{country}"}
    paths = {country: os.path.join(source, f"AliExpress_{country}") for country in COUNTRIES}
    if found := own or {country: path for country, path in paths.items() if os.path.isdir(path)}:
        return found
    raise DataError(
        f"aliexpress: folder `{source}` has none of {[os.path.basename(path) for path in paths.values()]}; download the "
        f"processed data from {_SITE}, or make them from the original with its data/preprocess.py"
    )


def _file(folder: str, split: str) -> TextTable:
    path = find_file("aliexpress", folder, [f"{split}.csv"], _SITE)
    return TextTable("aliexpress", path, ("search_id", *IDS, *DENSE, *LABELS), _SITE, header=True)


def _rows(file: TextTable, country: str) -> Iterator[pa.Table]:
    for lines in file.batches():
        columns: dict[str, pa.Array] = {name: lines.integers(name, nullable=True) for name in IDS}
        columns |= {name: lines.numbers(name) for name in DENSE}
        page = lines.integers("search_id", high=2**60)
        columns["country"] = pa.repeat(country, len(lines)).dictionary_encode()
        # the numbers of pages begin anew in every country
        columns["page"] = pc.add(pc.multiply(page, len(COUNTRIES)), COUNTRIES.index(country))
        columns |= {name: lines.labels(name) for name in LABELS}
        funnel = pc.greater_equal(columns["click"], columns["conversion"])
        lines.require("conversion", funnel, "0, as the product was not clicked")
        yield pa.table(columns)


def _in_turn(streams: list[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """A batch of each country, and again, so that the rows of a training step are of several."""
    for batches in zip_longest(*streams):
        yield from (batch for batch in batches if batch is not None)


def _config(counts: dict[str, ValueCounts], moments: DenseMoments, countries: list[str], root: str) -> dict[str, Any]:
    """The configuration for the converted files."""
    features: dict[str, Any] = {name: {"kind": "id"} for name in ("country", *IDS)} | moments.features()
    for name in ("country", *USER):
        features[name]["side"] = "user"
    day = {"start": _DAY, "end": _DAY}
    return {
        "name": "aliexpress",
        "data": {
            "path": join_path(root, "train"),
            "train": day,
            "eval": day,
            "eval_path": join_path(root, "test"),
            "scenario": {"column": "country", "values": countries},
            "group": "page",
        },
        "features": features,
        "table_defaults": {"dim": 128},
        "tables": {name: hash_table(count.values()) for name, count in counts.items()},
        "tasks": {"click": {"kind": "binary"}, "conversion": {"kind": "binary", "parent": "click"}},
        "model": {
            "preset": "mmoe",
            "trunk": {"experts": 8, "hidden": [512, 256], "dropout": 0.2},
            "towers": {"hidden": [128, 64], "dropout": 0.2},
        },
        "train": {"epochs": 1, "batch_size": 2048},
    }
