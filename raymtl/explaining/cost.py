"""What columns cost: bytes in the files of the logs, and memory of the tables that only they read."""

from collections.abc import Collection, Mapping

import pyarrow.parquet as pq

from raymtl.config.features import Tableless
from raymtl.config.root import Config
from raymtl.data.nested import leaf_columns
from raymtl.data.units import Plan, group_rows
from raymtl.explaining.sample import source_columns
from raymtl.storage.filesystem import open_filesystem, open_to_read
from raymtl.storage.retry import retry

_FILES = 32


def bytes_per_row(plan: Plan, columns: Collection[str]) -> dict[str, float]:
    """Compressed bytes of each column per row, from the footers of at most `_FILES` files of a plan.

    A column that stands in the names of folders has none.
    """
    filesystem, _ = open_filesystem(plan.root)
    files = {fragment.path: fragment.impressions for unit in plan.units for fragment in unit.fragments}
    found, rows = dict.fromkeys(columns, 0), 0
    for path, impressions in list(files.items())[:: max(1, -(-len(files) // _FILES))]:

        def footer(path: str = path) -> pq.FileMetaData:
            with open_to_read(filesystem, path) as stream:
                return pq.read_metadata(stream)

        metadata = retry(footer)
        leaves = leaf_columns(metadata.schema.to_arrow_schema(), impressions)
        owner = {n: name for n, name in enumerate(leaves) if name in found}
        rows += sum(group_rows(metadata, impressions))
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            for n, name in owner.items():
                found[name] += group.column(n).total_compressed_size
    return {name: size / max(rows, 1) for name, size in found.items()}


def tables_of(config: Config, columns: Collection[str]) -> list[str]:
    """The tables that no feature reads any more if these columns are gone."""
    sources = source_columns(config)
    gone = {feature for column in columns for feature in sources.get(column, [])}
    readers: dict[str, set[str]] = {}
    for name, feature in config.features.items():
        if not isinstance(feature, Tableless):
            readers.setdefault(config.table_of(name), set()).add(name)
    return [table for table, names in readers.items() if names <= gone]


def memory_of(config: Config, columns: Collection[str], sizes: Mapping[str, int]) -> int:
    """Bytes that tables free if these columns are gone, by the sizes of all tables."""
    return sum(sizes[table] for table in tables_of(config, columns) if table in sizes)
