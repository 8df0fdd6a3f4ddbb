"""A random share of the users, different for every salt: the users held out of a day's training."""

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from raymtl.data.ids.hashing import mix64
from raymtl.data.rules import int64_values


@dataclass(frozen=True)
class UserSlice:
    """A slice of the users by a hash of user and salt; the same on any machine."""

    column: str
    """Column with the user."""
    salt: int
    """Each salt selects different users."""
    share: float
    """Share of the users that is selected."""
    selected: bool
    """Whether the slice is the selected users, or all others. A row without a user is never selected."""

    def of_day(self, day: dt.date) -> "UserSlice":
        """The slice of the job of another day."""
        return replace(self, salt=day.toordinal())

    def contains(self, users: pa.Array) -> np.ndarray:
        """Which of the rows belong to the slice, by their users as int64, nulls allowed; [N] bool."""
        salt = mix64(np.array([self.salt], np.int64))
        hashes = mix64((int64_values(users).view(np.uint64) ^ salt).view(np.int64))
        selected = hashes < np.uint64(min(self.share * 2.0**64, 2.0**64 - 2048))
        if users.null_count:
            selected &= users.is_valid().to_numpy(zero_copy_only=False)
        return selected if self.selected else ~selected
