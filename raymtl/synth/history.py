"""The last steps of every user, for `hist_items` and the other histories."""

import numpy as np


class History:
    """The last L items of each of N users, their categories, and a number per name in `marks`; newest last.

    6·N·L bytes, and 4·N·L for every mark.
    """

    def __init__(self, users: int, length: int, marks: tuple[str, ...] = ()):
        self.items = np.zeros((users, length), dtype=np.int32)
        self.categories = np.zeros((users, length), dtype=np.int16)
        self.marks = {name: np.zeros((users, length), dtype=np.int32) for name in marks}
        self._count = np.zeros(users, dtype=np.int32)
        self.length = length

    def clear(self, users: np.ndarray) -> None:
        """Empty the histories of `users` (slots with a new user)."""
        self._count[users] = 0

    def valid(self, users: np.ndarray) -> np.ndarray:
        """Which steps exist, [R, L] for R users."""
        return np.arange(self.length) >= self.length - self._count[users, None]

    def read(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items, their categories, and which of them are valid, each [R, L], for R users; oldest first."""
        return self.items[users], self.categories[users], self.valid(users)

    def add(self, users: np.ndarray, items: np.ndarray, categories: np.ndarray, **marks: np.ndarray) -> None:
        """Append steps in chronological order: `items[k]` of `categories[k]` by `users[k]`."""
        if not len(users) or not self.length:
            return
        order = np.argsort(users, kind="stable")
        who, start, new = np.unique(users[order], return_index=True, return_counts=True)
        place = np.arange(self.length)
        # position j of the new row holds step number new − (L − j) of the batch, or the value `new` positions further right
        from_batch = new[:, None] - (self.length - place)
        in_batch = order[np.clip(start[:, None] + from_batch, 0, len(order) - 1)]
        before = np.minimum(place + new[:, None], self.length - 1)
        steps: list[tuple[np.ndarray, np.ndarray]]
        steps = [(self.items, items), (self.categories, categories), *((self.marks[n], v) for n, v in marks.items())]
        for stored, added in steps:
            kept = np.take_along_axis(stored[who], before, axis=1)
            stored[who] = np.where(from_batch >= 0, added[in_batch], kept)
        self._count[who] = np.minimum(self._count[who] + new, self.length)
