"""Check whether a folder can be created and written before it exists."""

import os
import tempfile
from pathlib import Path

from raymtl.errors import StorageError
from raymtl.storage.folder import Folder


def check_writable(folder: Folder, what: str = "output: the run folder", field: str = "output") -> None:
    """Raise StorageError if a local folder can be neither created nor written; `field` of the configuration sets it."""
    if not folder.is_local:
        return
    root = Path(folder.root)
    nearest = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        reason = "is a file" if nearest.exists() else "is a broken link"
    else:
        try:  # not os.access(), which is always true for root
            with tempfile.TemporaryFile(dir=nearest):
                return
        except OSError as error:
            reason = f"is not writable for this user ({error.strerror})"
    raise StorageError(
        f"{what} would be `{folder.path}`, but `{nearest}` {reason}; set another `{field}`, or give this user "
        f"permission to write there"
    )


def not_writable(folder: str, error: OSError) -> StorageError:
    """The error for a local folder that cannot be written."""
    return StorageError(
        f"the folder `{folder}` cannot be written ({error.strerror or error}); choose another folder (`output`, or --out), or "
        "give this user permission to write there"
    )
