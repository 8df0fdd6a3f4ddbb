"""Scores of one family of outputs (the funnel's, the engagement's) for any request of a day."""

from dataclasses import dataclass

import numpy as np

from raymtl.synth.attributes import Items, Users
from raymtl.synth.truth import Effects


@dataclass(frozen=True)
class Tables:
    """The effects of a day, summed up per user and per item slot."""

    effects: Effects
    user_main: np.ndarray
    """[users, O]."""
    user_factors: np.ndarray
    item_main: np.ndarray
    """[items, O]."""
    item_factors: np.ndarray
    item_price: np.ndarray


def day_tables(effects: Effects, users: Users, items: Items) -> Tables:
    """The tables of one day's users and items."""
    return Tables(effects, *effects.user_table(users), *effects.item_table(items))


def score(
    tables: Tables,
    users: Users,
    items: Items,
    shown: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    intercepts: np.ndarray,
    match: np.ndarray | None = None,
) -> np.ndarray:
    """Scores without position, [R, K, O] float32.

    `shown` is the user, scenario and hour of each request [R] and its items [R, K]; `intercepts` is [S, O]; `match` the share of
    the history that has the item's category, [R, K].
    """
    (user, scenario, hour, item), effects = shown, tables.effects
    asker = tables.user_main[user] + intercepts[scenario] + effects.context[scenario, hour, users.device[user]]
    scores = tables.item_main[item]
    scores += asker[:, None]
    scores += effects.cross[scenario[:, None], users.segment[user][:, None], items.category[item]]
    scores += tables.item_price[item][:, :, None] * effects.price_slope[scenario, users.age[user]][:, None]
    if match is not None:
        scores += match[:, :, None] * effects.history[scenario][:, None]
    product = tables.user_factors[user][:, None] * tables.item_factors[item]
    for factor, weight in enumerate(effects.bilinear):  # no BLAS: the same sums whatever the number of threads
        scores += product[:, :, factor, None] * weight
    return scores
