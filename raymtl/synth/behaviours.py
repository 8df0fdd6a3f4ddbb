"""The extended history with `behaviours`: kind, time and hour of each click, and all carts and buys.

Shapes: R requests, K items of each, L steps, O outputs of `truth.OUTPUTS`, S scenarios.
"""

from dataclasses import dataclass, fields

import numpy as np

from raymtl.synth.attributes import Items
from raymtl.synth.chance import generator
from raymtl.synth.history import History
from raymtl.synth.spec import SynthSpec
from raymtl.synth.truth import BUY, OUTPUTS, standardised

KINDS = 4
"""Values of `hist_kinds` and one for none: 1 click, 2 cart, 3 buy."""
GAPS = 21
"""Values of `hist_gaps`: 0 within the minute, g from 2^(g−1) minutes on, the last one 364 days and more."""

# Weight of a step by its age, its kind (click, cart or buy) and its hour: working hours count little.
_GAP_WEIGHT = (1 / (1 + 2.0 ** (np.arange(GAPS) - 7))).astype(np.float32)
_KIND_WEIGHT = np.array([0, 1, 4, 8], dtype=np.float32)
_HOUR_WEIGHT = np.where((np.arange(24) >= 9) & (np.arange(24) < 18), 0.2, 1.2).astype(np.float32)
# Per behaviour (clicks as weighted above, carts, buys) and output: effect of the share of the steps in the item's category, and
# standard deviation of the effect of one step's category on all items. A user who carted an item of the category comes back to
# buy it and carts no second one; one who bought an item of it looks and carts, but does not buy again.
_SHARE = ((3.0, 1.0, 0.8, 0.6, 0.6), (0.8, -1.5, 2.0, 0.2, 0.2), (0.8, 1.2, -2.5, 0.1, -0.2))
_MOOD = ((1.30, 0.80, 0.60, 0.40, 0.40), (0.30, 0.70, 0.80, 0.05, 0.05), (0.30, 0.60, 0.80, 0.05, 0.05))


@dataclass(frozen=True)
class Past:
    """The past of R requests as the logs show it, each [R, L]; steps that are not valid have arbitrary values."""

    items: np.ndarray
    categories: np.ndarray
    valid: np.ndarray
    kinds: np.ndarray
    gaps: np.ndarray
    hours: np.ndarray
    cart_items: np.ndarray
    cart_categories: np.ndarray
    cart_valid: np.ndarray
    buy_items: np.ndarray
    buy_categories: np.ndarray
    buy_valid: np.ndarray


@dataclass(frozen=True)
class _Buys:
    """Pending buys: made at an impression, known when they arrive."""

    arrival: np.ndarray
    """Milliseconds since the start of the logs."""
    user: np.ndarray
    item: np.ndarray
    category: np.ndarray
    serial: np.ndarray
    """Of the click that caused them."""

    def take(self, which: np.ndarray) -> "_Buys":
        return _Buys(*(getattr(self, f.name)[which] for f in fields(self)))


class Behaviours:
    """The last clicks, carts and buys of every user of one shard."""

    def __init__(self, spec: SynthSpec, users: int):
        self.clicks = History(users, spec.history, ("kind", "minute", "serial"))
        self.effects = BehaviourEffects(spec)
        self._carts, self._buys = History(users, spec.history), History(users, spec.history)
        self._clicks = 0
        self._coming = _Buys(*(np.empty(0, np.int64) for _ in fields(_Buys)))

    def clear(self, users: np.ndarray) -> None:
        """Empty the past of `users` (slots with a new user)."""
        for history in (self.clicks, self._carts, self._buys):
            history.clear(users)
        self._coming = self._coming.take(~np.isin(self._coming.user, users))

    def refresh(self, now_ms: int) -> None:
        """Add the buys that have arrived by now."""
        here = self._coming.arrival <= now_ms
        arrived = self._coming.take(np.flatnonzero(here))
        arrived = arrived.take(np.argsort(arrived.arrival, kind="stable"))
        self._coming = self._coming.take(np.flatnonzero(~here))
        buy, place = np.nonzero(self.clicks.marks["serial"][arrived.user] == arrived.serial[:, None])
        self.clicks.marks["kind"][arrived.user[buy], place] = 3
        self._buys.add(arrived.user, arrived.item, arrived.category)

    def add(
        self,
        user: np.ndarray,
        item: np.ndarray,
        category: np.ndarray,
        time_ms: np.ndarray,
        carted: np.ndarray,
        arrival_ms: np.ndarray,
    ) -> None:
        """Append clicks in chronological order; `carted`: which became carts, `arrival_ms` when the buy arrives (−1: none)."""
        serial = np.arange(self._clicks + 1, self._clicks + 1 + len(user), dtype=np.int32)
        self._clicks += len(user)
        self.clicks.add(user, item, category, kind=1 + carted, minute=time_ms // 60_000, serial=serial)
        cart, buy = np.flatnonzero(carted), np.flatnonzero(arrival_ms >= 0)
        self._carts.add(user[cart], item[cart], category[cart])
        new = _Buys(arrival_ms[buy], user[buy], item[buy], category[buy], serial[buy])
        pairs = ((getattr(self._coming, f.name), getattr(new, f.name)) for f in fields(_Buys))
        self._coming = _Buys(*(np.concatenate(pair) for pair in pairs))

    def read(self, user: np.ndarray, time_ms: np.ndarray) -> Past:
        """The past of `user` [R] at `time_ms` [R]."""
        minute = self.clicks.marks["minute"][user]
        passed = np.maximum(time_ms[:, None] // 60_000 - minute, 0)
        gaps = np.minimum(np.frexp(passed.astype(np.float64))[1], GAPS - 1)  # the number of binary digits
        how = (self.clicks.marks["kind"][user], gaps, minute // 60 % 24)
        return Past(*self.clicks.read(user), *how, *self._carts.read(user), *self._buys.read(user))


def usual_shares(items: Items, shown: np.ndarray, main: np.ndarray, categories: int) -> np.ndarray:
    """Approximate category shares of all clicks, carts and buys of a day, [behaviours, categories] float32.

    `shown` is every item's share of the traffic, `main` [items, O] its effects on the scores.
    """
    weight = shown[:, None] * np.exp(np.cumsum(main[:, : BUY + 1], axis=1))
    shares = np.stack([np.bincount(items.category, w, categories) for w in weight.T])
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


class BehaviourEffects:
    """Effects of the past on the scores; they replace that of the share of `hist_items` in the item's category."""

    def __init__(self, spec: SynthSpec):
        draw, outputs = generator(spec.seed, 7), len(OUTPUTS)
        share = draw.uniform(0.5, 1.5, (len(_SHARE), len(spec.scenarios), outputs))
        self._share = (share * np.array(_SHARE)[:, None] * spec.signal).astype(np.float32)
        mood = [standardised(draw.normal(size=(spec.categories, outputs))) * scale * spec.signal for scale in _MOOD]
        self._mood = np.stack(mood).astype(np.float32)

    def scores(self, past: Past, category: np.ndarray, scenario: np.ndarray, usual: np.ndarray) -> np.ndarray:
        """[R, K, O] float32, for items of `category` [R, K] shown in `scenario` [R].

        Effects are relative to those of a past with the `usual` category shares, [behaviours, categories], so that growing
        histories hardly change the rates.
        """
        weight = _GAP_WEIGHT[past.gaps] * _KIND_WEIGHT[past.kinds] * _HOUR_WEIGHT[past.hours]
        behaviours = (
            (past.categories, weight * past.valid),
            (past.cart_categories, past.cart_valid.astype(np.float32)),
            (past.buy_categories, past.buy_valid.astype(np.float32)),
        )
        scores = np.zeros((*category.shape, len(OUTPUTS)), np.float32)
        for (steps, weight), strength, mood, of_all in zip(behaviours, self._share, self._mood, usual, strict=True):
            known = (weight > 0).any(axis=1)[:, None]
            mood = mood - (mood * of_all[:, None]).sum(axis=0)
            part = weight / np.maximum(weight.sum(axis=1), 1e-9)[:, None]
            share = np.zeros(category.shape, np.float32)
            told = np.zeros((len(category), len(OUTPUTS)), np.float32)
            for step in range(steps.shape[1]):
                share += part[:, step, None] * (steps[:, step, None] == category)
                told += part[:, step, None] * mood[steps[:, step]]
            share -= of_all[category] * known
            scores += share[:, :, None] * strength[scenario][:, None] + told[:, None]
        return scores
