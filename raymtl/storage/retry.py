"""When storage fails: the one place that decides what is tried again, and how long it is waited before."""

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
"""Seconds before each further attempt; there is one attempt more than pauses."""

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
# What Arrow's S3 and GCS and the fsspec packages say, where neither an error number nor a class tells it
_LASTING_WORDS = re.compile(
    r"ACCESS_?DENIED|PERMISSION_DENIED|UNAUTHENTICATED|NO_?SUCH_?(BUCKET|KEY)|NOT_FOUND|INVALID_ACCESS_KEY_ID"
    r"|SIGNATURE_DOES_NOT_MATCH|Forbidden|Unauthorized|Not Found|status\W{0,3}(code\W{0,3})?(401|403|404)\b|is a directory$",
    re.IGNORECASE,
)


# What storage says that is no parquet error; Arrow raises both as a plain OSError without a number
_STORAGE_WORDS = re.compile(
    r"AWS Error|google::cloud|Azure|curl|HTTP|errno|timed? ?out|connection|network|unreachable|slow.?down|too many requests"
    r"|\b(429|50[0-4])\b",
    re.IGNORECASE,
)
_ADVICE = (
    ({errno.ENOSPC, errno.EDQUOT}, "make room on the storage"),
    ({errno.EACCES, errno.EPERM, errno.EROFS}, "give this user the right to do that"),
)
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def is_transient(error: OSError) -> bool:
    """Whether the same call may go well a moment later; not where the disk is full, rights are missing or a name is wrong."""
    if isinstance(error, _LASTING_KINDS) or error.errno in _LASTING:
        return False
    # An error that has a number is what the number says
    return error.errno is not None or not _LASTING_WORDS.search(str(error))


def is_of_storage(error: Exception) -> bool:
    """Whether an error in reading a parquet file is the storage's, not the file's; a file that is missing is neither."""
    if not isinstance(error, OSError) or isinstance(error, _ABSENT):
        return False
    if type(error) is not OSError or error.errno is not None:
        return True
    return bool(_STORAGE_WORDS.search(str(error)) or _LASTING_WORDS.search(str(error)))


def reason(error: Exception) -> str:
    """What the storage said, and how often it was asked."""
    notes = getattr(error, "__notes__", [])
    return f"{str(error) or type(error).__name__}{f' ({notes[0]})' if notes else ''}"


def advice(error: Exception) -> str:
    """What a user can do about it, as the begin of a sentence."""
    number = getattr(error, "errno", None)
    return next((text for numbers, text in _ADVICE if number in numbers), "check the storage (room, rights, network)")


def to_user_error(doing: str, error: OSError) -> UserError:
    """The sentence for input that could not be read: StorageError, or DataError where it is simply not there.

    `doing` is what was tried, such as "read `/logs`".
    """
    if isinstance(error, _ABSENT):
        return DataError(f"cannot {doing}: {reason(error)}")
    return StorageError(f"cannot {doing}: {reason(error)}; {advice(error)}, then the same command goes on")


def retry(work: Callable[[], T]) -> T:
    """`work()`, tried again after each error that may pass; it must be such that a second time does no harm.

    The error of the last attempt is raised, with a note of how many there were.
    """
    for pause in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if not is_transient(error):
                raise
        # Unequal pauses: many workers meet a storage that is overloaded at the same moment
        time.sleep(pause * random.uniform(0.75, 1.25))
    try:
        return work()
    except OSError as error:
        if is_transient(error):
            error.add_note(f"tried {len(PAUSES_S) + 1} times")
        raise
