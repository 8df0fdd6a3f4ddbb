"""Retries of failed storage calls: the one place that decides which errors to retry and how long to wait."""

import errno
import io
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from raymtl.errors import DataError, StorageError, UserError

T = TypeVar("T")

PAUSES_S = (0.2, 0.8, 3.0)
"""Seconds before each retry; there is one attempt more than pauses."""

_LASTING = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.ELOOP,
    errno.ENOTSUP,
}
_LASTING_KINDS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    io.UnsupportedOperation,
)
# Words of Arrow's S3 and GCS and of the fsspec packages, for errors with neither a number nor a class of their own
_LASTING_WORDS = re.compile(
    r"ACCESS_?DENIED|PERMISSION_DENIED|UNAUTHENTICATED|NO_?SUCH_?(BUCKET|KEY)|NOT_FOUND|INVALID_ACCESS_KEY_ID"
    r"|SIGNATURE_DOES_NOT_MATCH|Forbidden|Unauthorized|Not Found|status\W{0,3}(code\W{0,3})?(401|403|404)\b|is a directory$",
    re.IGNORECASE,
)


# Words of storage errors, to tell them from parquet errors; Arrow raises both as a plain OSError without a number
_STORAGE_WORDS = re.compile(
    r"AWS Error|google::cloud|Azure|curl|HTTP|errno|timed? ?out|connection|network|unreachable|slow.?down|too many requests"
    r"|\b(429|50[0-4])\b",
    re.IGNORECASE,
)
_ADVICE = (
    ({errno.ENOSPC, errno.EDQUOT}, "free space on the storage"),
    ({errno.EACCES, errno.EPERM, errno.EROFS}, "give this user the permission"),
)
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def is_transient(error: OSError) -> bool:
    """Whether the same call may succeed a moment later; not if the disk is full, permission is missing or a name is wrong."""
    if isinstance(error, _LASTING_KINDS) or error.errno in _LASTING:
        return False
    # An error number decides alone
    return error.errno is not None or not _LASTING_WORDS.search(str(error))


def is_of_storage(error: Exception) -> bool:
    """Whether an error in reading a parquet file comes from the storage, not the file; a missing file is neither."""
    if not isinstance(error, OSError) or isinstance(error, _ABSENT):
        return False
    if type(error) is not OSError or error.errno is not None:
        return True
    return bool(_STORAGE_WORDS.search(str(error)) or _LASTING_WORDS.search(str(error)))


def reason(error: Exception) -> str:
    """The storage's error, and the number of attempts."""
    notes = getattr(error, "__notes__", [])
    return f"{str(error) or type(error).__name__}{f' ({notes[0]})' if notes else ''}"


def advice(error: Exception) -> str:
    """What a user can do about it, as the start of a sentence."""
    number = getattr(error, "errno", None)
    return next(
        (text for numbers, text in _ADVICE if number in numbers), "check the storage (space, permissions, network)"
    )


def to_user_error(doing: str, error: OSError) -> UserError:
    """The error for input that could not be read: StorageError, or DataError if it does not exist.

    `doing` is what was tried, such as "read `/logs`".
    """
    if isinstance(error, _ABSENT):
        return DataError(f"cannot {doing}: {reason(error)}; check that the path exists")
    return StorageError(f"cannot {doing}: {reason(error)}; {advice(error)}, then rerun the same command")


def retry(work: Callable[[], T]) -> T:
    """Call `work()`, and again after each transient error; calling it twice must do no harm.

    Raises the error of the last attempt, with a note of the number of attempts.
    """
    for pause in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if not is_transient(error):
                raise
        # Random pauses: many workers hit an overloaded storage at the same moment
        time.sleep(pause * random.uniform(0.75, 1.25))
    try:
        return work()
    except OSError as error:
        if is_transient(error):
            error.add_note(f"tried {len(PAUSES_S) + 1} times")
        raise
