"""`interest`: every user has favourite categories and a past before the logs, and steps in an item's category raise its scores.

Shapes: R requests, K items of each, L steps.
"""

import numpy as np

from raymtl.synth.attributes import Items
from raymtl.synth.chance import generator, normal, uniform
from raymtl.synth.history import History
from raymtl.synth.population import Draw
from raymtl.synth.spec import SynthSpec

_KEPT = 0.8
"""What each step in a category leaves of the interest that is still missing to the full one."""
_TASTE = 1.5
"""Standard deviation of a user's log weights of the categories."""
_OFFERS = 4
"""Items of which a user clicked one, for each step of the past."""
_USERS_AT_A_TIME = 1000


def interest(categories: np.ndarray, valid: np.ndarray, category: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """1 − 0.8^n for items of `category` [R, K], n the steps [R, L] in that category, minus the same for as many steps with the
    `usual` shares of the categories: [R, K] float32."""
    past = np.where(valid, categories, -1).astype(np.int16)
    same = np.zeros(category.shape, np.int32)
    for place in range(category.shape[1]):
        same[:, place] = (past == category[:, place, None].astype(np.int16)).sum(axis=1)
    expected = valid.sum(axis=1)[:, None] * usual[category]
    return (_KEPT**expected - _KEPT**same).astype(np.float32)


def add_earlier_steps(
    history: History, spec: SynthSpec, users: np.ndarray, items: Items, draw_item: Draw, shard: int
) -> None:
    """Fill the histories of `users`, by their numbers, with clicks from before the first day: of each between none and all.

    Each step is one of a few popular items, drawn by the user's own weights of their categories.
    """
    length, categories = spec.history, spec.categories
    steps = np.floor(uniform(spec.seed, "user past", users) * (length + 1)).astype(np.int64)
    for first in range(0, len(users), _USERS_AT_A_TIME):
        slots = np.arange(first, min(first + _USERS_AT_A_TIME, len(users)))
        random = generator(spec.seed, 10, shard, first)
        numbers = users[slots, None] * categories + np.arange(categories)
        taste = _TASTE * normal(spec.seed, "user interest", numbers.reshape(-1)).reshape(numbers.shape)
        offers = draw_item(random.random((len(slots), length, _OFFERS)))
        offered = items.category[offers]
        appeal = taste[np.arange(len(slots))[:, None, None], offered] + random.gumbel(size=offers.shape)
        chosen = appeal.argmax(axis=2)[:, :, None]
        taken = np.arange(length) < steps[slots, None]
        item, category = (np.take_along_axis(a, chosen, axis=2)[:, :, 0][taken] for a in (offers, offered))
        before = (steps[slots, None] - np.arange(length))[taken]  # the last one an hour before the logs
        marks = {"kind": np.ones_like(before), "minute": -60 * before, "serial": np.zeros_like(before)}
        history.add(
            np.repeat(slots, steps[slots]),
            items.number[item],
            category,
            **{name: marks[name] for name in history.marks},
        )
