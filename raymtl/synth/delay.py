"""Delays of buys, with `buy_delay_days`: how long after the impression a buy is made, given the attributes of user and item.

The delay of a buy is exponential with a mean m, truncated at w = `buy_delay_days` days: its distribution function is
(1 − e^(−t/m)) / (1 − e^(−w/m)) for t in [0, w). With standard normal effects of the item's category and the user's segment,

    log m = log(13 h) + 1.3 · category + 0.8 · segment + 0.7 · z(log price)

(an unknown price has no effect), so the buys of some groups are known by midnight and those of others take the days.

Shapes: N rows, of which B have a buy.
"""

import numpy as np

from raymtl.synth.attributes import Items, Users
from raymtl.synth.chance import generator
from raymtl.synth.clock import DAY_MS
from raymtl.synth.spec import SynthSpec
from raymtl.synth.truth import standardised, standardised_price

_TYPICAL_MS = 13 * 3_600_000
_CATEGORY, _SEGMENT, _PRICE = 1.3, 0.8, 0.7


class BuyDelays:
    """The delays of one seed."""

    def __init__(self, spec: SynthSpec):
        draw = generator(spec.seed, 12)
        self._longest_ms = spec.buy_delay_days * DAY_MS
        self._category = _CATEGORY * standardised(draw.normal(size=(spec.categories, 1)))[:, 0]
        self._segment = _SEGMENT * standardised(draw.normal(size=(spec.segments, 1)))[:, 0]

    def mean_ms(self, users: Users, items: Items, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """m in milliseconds for pairs of slots of `users` and `items`, each [B], float64."""
        price = _PRICE * standardised_price(items.price[item])
        return _TYPICAL_MS * np.exp(self._category[items.category[item]] + self._segment[users.segment[user]] + price)

    def draw_ms(self, mean_ms: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A delay for every mean, [B] int64, in [0, w): the inverse of the distribution function at a uniform number."""
        scale = np.expm1(-self._longest_ms / mean_ms)
        return (-mean_ms * np.log1p(random.random(len(mean_ms)) * scale)).astype(np.int64)
