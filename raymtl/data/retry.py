"""When storage fails: the one place that decides what is tried again, and how long it is waited before."""

import errno
import io
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

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


def may_pass(error: OSError) -> bool:
    """Whether the same call may go well a moment later; not where the disk is full, rights are missing or a name is wrong."""
    if isinstance(error, _LASTING_KINDS) or error.errno in _LASTING:
        return False
    # An error that has a number is what the number says
    return error.errno is not None or not _LASTING_WORDS.search(str(error))


def patiently(work: Callable[[], T]) -> T:
    """`work()`, tried again after each error that may pass; it must be such that a second time does no harm.

    The error of the last attempt is raised, with a note of how many there were.
    """
    for pause in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if not may_pass(error):
                raise
        # Unequal pauses: many workers meet a storage that is overloaded at the same moment
        time.sleep(pause * random.uniform(0.75, 1.25))
    try:
        return work()
    except OSError as error:
        if may_pass(error):
            error.add_note(f"tried {len(PAUSES_S) + 1} times")
        raise
