"""One shard of the logs: the requests of its users, block by block in the order of time.

A block holds at most `BLOCK_ROWS` rows, draws from a generator of its own, and shows the histories as they were at its start;
so a block's rows depend on the spec, the day, the block's number and the clicks before, never on how files are cut.

Shapes: R requests of K rows, N = R·K rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raymtl.data.synth.attributes import Items, Users, describe_items, describe_users
from raymtl.data.synth.chance import generator
from raymtl.data.synth.clock import milliseconds
from raymtl.data.synth.history import History
from raymtl.data.synth.population import Draw, Population
from raymtl.data.synth.spec import SynthSpec
from raymtl.data.synth.truth import CART, CLICK, OUTPUTS, VIEWS, WATCH, WATCH_SPREAD, Effects, chances

BLOCK_ROWS = 65_536
_RANKER_NOISE = 1.0  # logits; the old ranker knows the relevance with a correlation of about 0.7


@dataclass(frozen=True)
class Day:
    """All that is fixed during one day."""

    number: int
    users: Users
    items: Items
    effects: Effects
    draw_user: Draw
    draw_item: Draw
    user_main: np.ndarray
    user_factors: np.ndarray
    item_main: np.ndarray
    item_factors: np.ndarray
    item_price: np.ndarray
    item_ctr: np.ndarray
    """Click rate of the last 7 days as a statistics job published it: noisy; NaN for an item that is new today."""
    item_rating: np.ndarray
    """1 to 5, noisy; NaN for new items and where nobody rated."""


@dataclass(frozen=True)
class Rows:
    """N rows, those of a request together and in the order of their positions; slots index the tables of `day`."""

    day: Day
    count: int
    """Rows that exist: N, or less in the day's last block, whose last request is cut short."""
    user: np.ndarray
    """User slot of every request, [R]."""
    scenario: np.ndarray
    hour: np.ndarray
    time_ms: np.ndarray
    """After midnight, [R]."""
    shuffled: np.ndarray
    """Whether the order was drawn at random, [R]."""
    first_request: int
    """Number of the first request within shard and day."""
    history: np.ndarray
    """Item numbers [R, L]."""
    history_valid: np.ndarray
    item: np.ndarray
    """Item slot of every row, [R, K]."""
    truth: np.ndarray
    """P(click), P(cart), P(buy), P(click at position 1), mean page views, mean watch time, [N, 6] float32."""
    labels: np.ndarray
    """click, cart, buy, as they happen, logged or not, [N, 3] bool."""
    page_views: np.ndarray
    watch_time: np.ndarray
    """Seconds, [N] float32; NaN without a click."""


@dataclass(frozen=True)
class _Shown:
    """Requests as shown, before anybody reacts; `scores` [N, O] is without the position."""

    user: np.ndarray
    scenario: np.ndarray
    hour: np.ndarray
    time_ms: np.ndarray
    shuffled: np.ndarray
    item: np.ndarray
    history: np.ndarray
    history_valid: np.ndarray
    scores: np.ndarray


class Shard:
    """Generates the rows of one shard; days in order, each once."""

    def __init__(self, spec: SynthSpec, shard: int = 0, intercepts: np.ndarray | None = None):
        self._spec, self._shard = spec, shard
        self._users = Population(spec.seed, "user", spec.users, spec.new_users, 0.7, shard, spec.shards)
        self._items = Population(spec.seed, "item", spec.items, spec.new_items, 0.9)
        self._history = History(len(self._users), spec.history)
        share = np.cumsum([s.share for s in spec.scenarios])
        self._scenarios = share / share[-1]
        self._intercepts = (
            np.zeros((len(spec.scenarios), len(OUTPUTS)), np.float32) if intercepts is None else intercepts
        )

    def day(self, number: int) -> Day:
        """Everyone who is there on day `number`, and what moves them."""
        spec, effects = self._spec, Effects(self._spec, number)
        user_weights, item_weights = self._users.weights(number), self._items.weights(number)
        users = describe_users(
            spec, self._users.numbers(number), self._users.age_days(number), user_weights, number, len(OUTPUTS)
        )
        items = describe_items(spec, self._items.numbers(number), self._items.age_days(number), number, len(OUTPUTS))
        user_main, user_factors = effects.user_table(users)
        item_main, item_factors, item_price = effects.item_table(items)
        ctr = 1 / (1 + np.exp(1.8 - item_main[:, CLICK] - 0.2 * items.noise[:, 0]))
        rating = np.clip(3.8 + 0.7 * item_main[:, CART] + 0.2 * items.noise[:, 1], 1, 5)
        return Day(
            number=number,
            users=users,
            items=items,
            effects=effects,
            draw_user=Draw(user_weights),
            draw_item=Draw(item_weights),
            user_main=user_main,
            user_factors=user_factors,
            item_main=item_main,
            item_factors=item_factors,
            item_price=item_price,
            item_ctr=np.where(items.age_days > 0, ctr, np.nan).astype(np.float32),
            item_rating=np.where((items.age_days > 0) & items.rated, rating, np.nan).astype(np.float32),
        )

    def rows(self, number: int) -> Iterator[Rows]:
        """The rows of day `number` in blocks."""
        spec = self._spec
        mine = spec.shard_rows(number, self._shard)
        requests = -(-mine // spec.request_rows)
        blocks = max(1, min(requests, max(spec.refreshes_per_day, -(-mine // BLOCK_ROWS))))
        today = self.day(number)
        self._history.forget(self._users.replaced(number))
        for block in range(blocks):
            first, end = requests * block // blocks, requests * (block + 1) // blocks
            random = generator(spec.seed, 3, self._shard, number, block)
            part = (block + np.sort(random.random(end - first))) / blocks
            count = min(end * spec.request_rows, mine) - first * spec.request_rows
            rows = self._outcomes(today, random, self._show(today, random, part), first, count)
            clicks = np.flatnonzero(rows.labels[:count, CLICK])
            slots = rows.item.reshape(-1)[clicks]
            self._history.add(
                rows.user[clicks // spec.request_rows], today.items.number[slots], today.items.category[slots]
            )
            yield rows

    def _show(self, day: Day, random: np.random.Generator, part: np.ndarray) -> "_Shown":
        spec = self._spec
        requests, width = len(part), spec.request_rows
        time_ms = milliseconds(part)
        hour = time_ms // 3_600_000
        user = day.draw_user(random.random(requests))
        scenario = np.searchsorted(self._scenarios, random.random(requests), side="right")
        # one candidate from each of K strata of the cumulative popularity: right marginals, and no item twice in a request
        item = day.draw_item((np.arange(width) + random.random((requests, width))) / width)
        history, history_category, valid = self._history.read(user)
        match = _share_of(history_category, valid, day.items.category[item])
        scores = self._scores(day, user, item, scenario, hour, match)

        shuffled = random.random(requests) < spec.random_order
        seen = _RANKER_NOISE * random.standard_normal((requests, width), dtype=np.float32)
        seen += np.where(shuffled[:, None], 0, scores[:, :, CLICK])
        order = np.argsort(-seen, axis=1)
        item = np.take_along_axis(item, order, axis=1)
        scores = np.take_along_axis(scores, order[:, :, None], axis=1)
        return _Shown(user, scenario, hour, time_ms, shuffled, item, history, valid, scores.reshape(-1, len(OUTPUTS)))

    def _outcomes(self, day: Day, random: np.random.Generator, shown: "_Shown", first: int, count: int) -> Rows:
        flat = shown.scores
        first_place = 1 / (1 + np.exp(-flat[:, CLICK]))
        flat[:, CLICK] += day.effects.position[shown.scenario].reshape(-1)
        chance = chances(flat)
        draw = random.random(len(flat), dtype=np.float32)
        labels = draw[:, None] < chance  # one draw for the whole funnel: buy ⊂ cart ⊂ click
        mean_views = np.exp(flat[:, VIEWS])
        watch_time = np.full(len(flat), np.nan, np.float32)
        clicked = np.flatnonzero(labels[:, CLICK])
        noise = random.standard_normal(len(clicked), dtype=np.float32)
        watch_time[clicked] = np.exp(flat[clicked, WATCH] + np.float32(WATCH_SPREAD) * noise)
        mean_watch = np.exp(flat[:, WATCH] + np.float32(WATCH_SPREAD**2 / 2))
        truth = np.column_stack([chance, first_place, mean_views, mean_watch])
        return Rows(
            day=day,
            count=count,
            user=shown.user,
            scenario=shown.scenario,
            hour=shown.hour,
            time_ms=shown.time_ms,
            shuffled=shown.shuffled,
            first_request=first,
            history=shown.history,
            history_valid=shown.history_valid,
            item=shown.item,
            truth=truth,
            labels=labels,
            page_views=random.poisson(mean_views),
            watch_time=watch_time,
        )

    def sample(self, requests: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores with the position [N, O] and scenarios [N] of a sample of the first day, without any outcome."""
        day, random = self.day(0), generator(self._spec.seed, 4)
        shown = self._show(day, random, np.sort(random.random(requests)))
        shown.scores[:, CLICK] += day.effects.position[shown.scenario].reshape(-1)
        return shown.scores, np.repeat(shown.scenario, self._spec.request_rows)

    def _scores(self, day: Day, user, item, scenario, hour, match) -> np.ndarray:
        """Scores without position, [R, K, O] float32."""
        users, effects = day.users, day.effects
        asker = day.user_main[user] + self._intercepts[scenario] + effects.context[scenario, hour, users.device[user]]
        scores = day.item_main[item]
        scores += asker[:, None]
        scores += effects.cross[scenario[:, None], users.segment[user][:, None], day.items.category[item]]
        scores += day.item_price[item][:, :, None] * effects.price_slope[scenario, users.age[user]][:, None]
        scores += match[:, :, None] * effects.history[scenario][:, None]
        product = day.user_factors[user][:, None] * day.item_factors[item]
        for factor, weight in enumerate(effects.bilinear):  # no BLAS: the same sums whatever the number of threads
            scores += product[:, :, factor, None] * weight
        return scores


def _share_of(history_category: np.ndarray, valid: np.ndarray, category: np.ndarray) -> np.ndarray:
    """Share of the history [R, L] that has the category of the item [R, K]; 0 for an empty history; [R, K] float32."""
    past = np.where(valid, history_category, -1)
    same = (past[:, None, :] == category[:, :, None].astype(np.int16)).sum(axis=2, dtype=np.float32)
    return same / np.maximum(valid.sum(axis=1), 1)[:, None].astype(np.float32)
