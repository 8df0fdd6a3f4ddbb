"""The last clicks of every user: what `hist_items` shows."""

import numpy as np


class History:
    """The last L clicked items of each of N users and their categories, newest at the right; 6·N·L bytes."""

    def __init__(self, users: int, length: int):
        self._items = np.zeros((users, length), dtype=np.int32)
        self._categories = np.zeros((users, length), dtype=np.int16)
        self._count = np.zeros(users, dtype=np.int32)
        self.length = length

    def forget(self, users: np.ndarray) -> None:
        """Empty the histories of `users` (slots with a new user)."""
        self._count[users] = 0

    def read(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items, their categories, and which of them are valid, each [R, L], for R users; oldest first."""
        valid = np.arange(self.length) >= self.length - self._count[users, None]
        return self._items[users], self._categories[users], valid

    def add(self, users: np.ndarray, items: np.ndarray, categories: np.ndarray) -> None:
        """Append clicks, given in the order of time: `items[k]` of `categories[k]` by `users[k]`."""
        if not len(users) or not self.length:
            return
        order = np.argsort(users, kind="stable")
        who, start, new = np.unique(users[order], return_index=True, return_counts=True)
        place = np.arange(self.length)
        # place j of the new row shows click number new − (L − j) of the batch, or what stood `new` places further right
        from_batch = new[:, None] - (self.length - place)
        in_batch = order[np.clip(start[:, None] + from_batch, 0, len(order) - 1)]
        before = np.minimum(place + new[:, None], self.length - 1)
        for stored, clicked in ((self._items, items), (self._categories, categories)):
            kept = np.take_along_axis(stored[who], before, axis=1)
            stored[who] = np.where(from_batch >= 0, clicked[in_batch], kept)
        self._count[who] = np.minimum(self._count[who] + new, self.length)
