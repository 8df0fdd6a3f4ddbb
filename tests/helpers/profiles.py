"""What `raymtl init` sees of some columns, without Ray."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.data.units import make_units
from raymtl.init.days import find_days
from raymtl.init.profile import ColumnProfile, Profile, Task, footers_of, kinds_of, merged
from raymtl.storage.folder import Folder


def write_logs(root: Path, *files: dict[str, Any] | pa.Table, day: str = "ds=2026-01-01") -> None:
    """One file for each table, in one day."""
    (root / day).mkdir(parents=True, exist_ok=True)
    for n, columns in enumerate(files):
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, root / day / f"part-{n}.parquet", row_group_size=max(1, len(table) // 2))


def profile_of(root: Path, every: int = 1) -> Profile:
    """The profile of logs with days."""
    folder = Folder.open(str(root))
    days = find_days(folder)
    assert days is not None
    footers = footers_of(days)
    kinds = kinds_of(footers)
    results = []
    for unit in make_units(footers, 1000):
        (table,) = Task(folder.path, kinds, unit.fragments, every)()
        results.append(pickle.loads(table.column("found")[0].as_buffer()))
    return merged(kinds, sum(f.rows for f in footers), results)


def column(profile: Profile, name: str) -> ColumnProfile:
    """One column of a profile."""
    return profile.columns[name]
