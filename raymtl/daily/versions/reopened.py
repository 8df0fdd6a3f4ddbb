"""Files of a store that are read here and there: parquet, whose reader asks for one column chunk after the other."""

import pyarrow as pa

from raymtl.daily.versions.storage import Store
from raymtl.data.remote import fsspec_of, open_to_read
from raymtl.data.reopened import Reopened
from raymtl.data.retry import patiently


def open_input(store: Store, name: str) -> pa.NativeFile:
    """An object to read from any place; what is read is tried again. Raises OSError, for `storage` to turn into a sentence."""
    path = store.inside(name)
    if fsspec_of(store.filesystem) is None:  # Arrow's own S3 and GCS try each request again themselves
        return patiently(lambda: open_to_read(store.filesystem, path))
    return pa.PythonFile(Reopened(store.filesystem, path), mode="r")
