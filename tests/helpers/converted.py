"""The rows that a converter wrote."""

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.storage.folder import Folder
from tests.helpers.listed import list_files


def read_split(out, split: str) -> pa.Table:
    """All rows of one split, in the order of the files."""
    files = list_files(Folder.open(f"{out}/{split}"), None)
    return pa.concat_tables(pq.read_table(f.path, partitioning=None) for f in files).combine_chunks()
