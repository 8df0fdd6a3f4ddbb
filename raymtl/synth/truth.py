"""The true model behind the labels: scores (logits and log means), each a sum of effects of the columns.

    score[o] = intercept[scenario, o]
             + user main effects      segment, age, gender, city, activity, and a residual per user
             + item main effects      category, brand, tags, freshness, and a residual per item
             + cross                  user segment × category, low rank, different in each scenario, rotating daily
             + price                  z(log price) · slope[scenario, age]
             + context                scenario × hour × device
             + bilinear               age × tags, and user and item preference vectors (rotating daily)
             + history                share of `hist_items` in the item's category, or the effects of `behaviours`
             + interest               few or many steps of `hist_items` in the item's category, if `interest` says so
             + missing                if the price or the rating is withheld (`missing_signal`)
             − conflict               cart and buy: a multiple of the click's score without its intercept
             + position               click only: −slope[scenario] · log(position)

for the outputs click, cart given click, buy given cart, page views (log mean), watch time (log median), and, of the same form,
those of `engagement`. The logs contain every input (some only through the IDs), so a model can come close to the truth; given
the scores, the labels are random.

Shapes: N rows, R requests, O outputs, S scenarios.
"""

import numpy as np

from raymtl.synth.attributes import AGES, DEVICES, GENDERS, TASTE, Items, Users
from raymtl.synth.chance import generator
from raymtl.synth.scales import FUNNEL, Scales
from raymtl.synth.spec import SynthSpec

OUTPUTS = ("click", "cart", "buy", "page_views", "watch_time")
CLICK, CART, BUY, VIEWS, WATCH = range(5)
WATCH_SPREAD = 0.5
"""Standard deviation of log watch time given its score."""

_SPEND_SPREAD = 0.7
"""Standard deviation of the log of the amount spent given the price: quantities and discounts."""

_HIDDEN_PRICE = (-0.6, -0.5, -0.7, -0.2, 0.0)
_HIDDEN_RATING = (0.5, 0.4, 0.4, 0.1, 0.0)
AGAINST_CLICK = {CART: 3.0, BUY: 0.5}
"""Multiple of the click's preferences subtracted from these scores at `conflict` 1."""
_POSITION = (0.40, 0.60, 0.25)
_MEANS = (0.0, 0.0, 0.0, np.log(2.0), np.log(25.0))
_RANK = 2
_AGE_FACTORS = 2


def _row(values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def standardised(values: np.ndarray, of_one: tuple[int, ...] | None = None) -> np.ndarray:
    """`values` with mean 0 and variance 1 over the axes `of_one` (None: all but the last), so that all seeds are equally hard."""
    axes = tuple(range(values.ndim - 1)) if of_one is None else of_one
    centred = values - values.mean(axis=axes, keepdims=True)
    return centred / np.maximum(centred.std(axis=axes, keepdims=True), 1e-6)


class Effects:
    """The effects of one seed on one day; tables only over small vocabularies.

    `stream` selects the random draws of a family of outputs; `first` is its first column in `residual`.
    """

    def __init__(self, spec: SynthSpec, day: int, scales: Scales = FUNNEL, stream: int = 2, first: int = 0):
        self._spec, self._scales = spec, scales
        self._residuals = slice(first, first + len(scales.segment))
        seed, angle = spec.seed, spec.drift * day
        draw = generator(seed, stream)
        scenarios, outputs = len(spec.scenarios), len(scales.segment)

        def table(scale: tuple[float, ...], *shape: int) -> np.ndarray:
            return (standardised(draw.normal(size=(*shape, outputs))) * scale * spec.signal).astype(np.float32)

        def turning(*shape: int) -> np.ndarray:
            first, second = draw.normal(size=shape), draw.normal(size=shape)
            return np.cos(angle) * first + np.sin(angle) * second

        self._segment, self._age = table(scales.segment, spec.segments), table(scales.age, len(AGES))
        self._gender, self._city = table(scales.gender, len(GENDERS)), table(scales.city, spec.cities)
        self._category, self._brand = table(scales.category, spec.categories), table(scales.brand, spec.brands)
        self._tags = table(scales.tags, spec.tag_values)
        self.context = self._context(table, scenarios)
        self.price_slope = table(scales.price_spread, scenarios, len(AGES)) + np.float32(spec.signal) * _row(
            scales.price_slope
        )
        self._age_vectors = draw.normal(size=(len(AGES), _AGE_FACTORS)).astype(np.float32)
        self._tag_vectors = draw.normal(size=(spec.tag_values, _AGE_FACTORS)).astype(np.float32)
        signs = draw.choice([-1.0, 1.0], size=(_AGE_FACTORS + TASTE, outputs))
        scale = np.array([scales.age_tags] * _AGE_FACTORS + [scales.taste] * TASTE) / np.sqrt(
            np.array([[_AGE_FACTORS]] * _AGE_FACTORS + [[TASTE]] * TASTE)
        )
        self.bilinear = (signs * scale * spec.signal).astype(np.float32)
        self.history = (draw.uniform(0.5, 1.5, (scenarios, outputs)) * scales.history_slope * spec.signal).astype(
            np.float32
        )
        slope = np.array([_POSITION[s % len(_POSITION)] for s in range(scenarios)])
        self.position = -np.outer(slope, np.log(np.arange(1, spec.request_rows + 1))).astype(np.float32)
        self.cross = self._cross(turning, scenarios, outputs)

    def _context(self, table, scenarios: int) -> np.ndarray:
        """[S, 24, devices, O]: a wave over the day and an effect of the device, different in each scenario."""
        angle = 2 * np.pi * np.arange(24)[:, None] / 24
        sine, cosine = table(self._scales.hour, scenarios, 1), table(self._scales.hour, scenarios, 1)
        wave = np.sin(angle) * sine + np.cos(angle) * cosine
        return (wave[:, :, None] + table(self._scales.device, scenarios, 1, len(DEVICES))).astype(np.float32)

    def _cross(self, turning, scenarios: int, outputs: int) -> np.ndarray:
        """[S, segments, categories, O]: outputs correlate by about 0.4, scenarios by about 0.9."""
        spec = self._spec
        shared, own = turning(spec.segments, _RANK), turning(outputs, spec.segments, _RANK)
        local = turning(scenarios, outputs, spec.segments, _RANK)
        of_output = np.stack([shared if o == CLICK else 0.6 * shared + 0.8 * own[o] for o in range(outputs)])
        left = 0.95 * of_output + 0.31 * local
        first, others = turning(spec.categories, _RANK), turning(outputs, spec.categories, _RANK)
        right = np.stack([first if o == CLICK else 0.7 * first + 0.71 * others[o] for o in range(outputs)])
        cross = standardised(np.einsum("sour,ocr->suco", left, right), of_one=(1, 2))
        return np.ascontiguousarray(cross * self._scales.cross * spec.signal, dtype=np.float32)

    def user_table(self, users: Users) -> tuple[np.ndarray, np.ndarray]:
        """Main effects [N, O] and bilinear factors [N, F] of every user slot, float32."""
        signal = np.float32(self._spec.signal)
        busy = np.nan_to_num((np.log1p(users.activity) - ACTIVITY_LOG_MEAN) / ACTIVITY_LOG_STD).clip(-2.5, 2.5)
        main = self._segment[users.segment] + self._age[users.age] + self._gender[users.gender] + self._city[users.city]
        main += signal * (
            busy[:, None] * _row(self._scales.activity_slope)
            + users.residual[:, self._residuals] * _row(self._scales.user_residual)
        )
        return main, np.concatenate([self._age_vectors[users.age], users.taste], axis=1)

    def item_table(self, items: Items) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Main effects [N, O], bilinear factors [N, F] and z(log price) [N] of every item slot, float32."""
        signal = np.float32(self._spec.signal)
        valid = np.arange(items.tags.shape[1]) < items.tag_count[:, None]
        per_tag = (valid / np.sqrt(np.maximum(items.tag_count, 1))[:, None]).astype(np.float32)
        main = self._category[items.category] + self._brand[items.brand]
        main += np.einsum("nt,nto->no", per_tag, self._tags[items.tags])
        fresh = np.log1p(items.age_days) - 2.5
        main += signal * (
            fresh[:, None] * _row(self._scales.fresh_slope)
            + items.residual[:, self._residuals] * _row(self._scales.item_residual)
        )
        vectors = np.einsum("nt,ntf->nf", per_tag, self._tag_vectors[items.tags])
        return main, np.concatenate([vectors, items.taste], axis=1), standardised_price(items.price)

    def withheld(self, items: Items) -> np.ndarray:
        """Effects of a price or rating withheld today, [N, O] float32."""
        shift = items.price_withheld[:, None] * _row(_HIDDEN_PRICE) + items.rating_withheld[:, None] * _row(
            _HIDDEN_RATING
        )
        return np.float32(self._spec.signal) * shift


PRICE_LOG_MEAN, PRICE_LOG_STD = 3.1, 0.85
"""Approximate mean and standard deviation of log(1 + price)."""
ACTIVITY_LOG_MEAN, ACTIVITY_LOG_STD = 4.0, 1.2
"""The same for log(1 + activity)."""


def standardised_price(price: np.ndarray) -> np.ndarray:
    """z(log price), 0 where the price is unknown (NaN), float32, same shape."""
    return np.nan_to_num((np.log1p(price) - PRICE_LOG_MEAN) / PRICE_LOG_STD).astype(np.float32)


def chances(scores: np.ndarray) -> np.ndarray:
    """End-to-end probabilities of click, cart, buy [N, 3] from scores [N, O]: each step times the previous one."""
    steps = 1 / (1 + np.exp(-scores[:, :3]))
    return np.cumprod(steps, axis=1)


def spend(price: np.ndarray, chance: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Amounts spent, 0 without a buy, and their true means over all impressions, [N, 2] float32.

    `price` [N], NaN for unknown; `chance` and `labels` of the funnel [N, 3].
    """
    median = np.where(np.isnan(price), np.expm1(PRICE_LOG_MEAN), price)
    amount = np.zeros(len(price))
    bought = np.flatnonzero(labels[:, BUY])
    amount[bought] = median[bought] * np.exp(_SPEND_SPREAD * random.standard_normal(len(bought)))
    mean = chance[:, BUY] * median * np.exp(_SPEND_SPREAD**2 / 2)
    return np.column_stack([amount, mean]).astype(np.float32)


def start_scores() -> np.ndarray:
    """Initial scores before calibration, [O]."""
    return np.array(_MEANS, dtype=np.float32)
