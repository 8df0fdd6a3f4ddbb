"""What columns cost: bytes in the files of the logs, and memory of the tables that only they read."""

from collections.abc import Collection, Iterable, Mapping

import pyarrow.parquet as pq

from raymtl.config.features import Tableless
from raymtl.config.root import Config
from raymtl.data.units import Plan
from raymtl.explaining.sample import source_columns
from raymtl.storage.filesystem import open_filesystem, open_to_read
from raymtl.storage.retry import retry

_FILES = 32


def bytes_per_row(plan: Plan, columns: Collection[str]) -> dict[str, float]:
    """Compressed bytes of each column per row, from the footers of at most `_FILES` files of a plan.

    A column that stands in the names of folders has none.
    """
    filesystem, _ = open_filesystem(plan.root)
    paths = list(dict.fromkeys(fragment.path for unit in plan.units for fragment in unit.fragments))
    found, rows = dict.fromkeys(columns, 0), 0
    for path in paths[:: max(1, -(-len(paths) // _FILES))]:

        def footer(path: str = path) -> pq.FileMetaData:
            with open_to_read(filesystem, path) as stream:
                return pq.read_metadata(stream)

        metadata = retry(footer)
        leaves: list[str] = [metadata.schema.column(n).path for n in range(metadata.num_columns)]
        owner = {n: name for n, leaf in enumerate(leaves) if (name := _owner(leaf, found)) is not None}
        for group in (metadata.row_group(n) for n in range(metadata.num_row_groups)):
            for n, name in owner.items():
                found[name] += group.column(n).total_compressed_size
        rows += metadata.num_rows
    return {name: size / max(rows, 1) for name, size in found.items()}


def _owner(leaf: str, columns: Iterable[str]) -> str | None:
    """The column that a leaf of a parquet schema, such as `tags.list.element`, belongs to."""
    return next((name for name in columns if leaf == name or leaf.startswith(f"{name}.")), None)


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
