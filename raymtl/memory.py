"""The memory of this process."""

import ctypes
from contextlib import suppress


def give_memory_back() -> None:
    """Return freed memory to the system: glibc would keep it, for each thread that comes and goes, and more with every job."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
