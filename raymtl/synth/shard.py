"""One shard of the logs: the requests of its users, block by block in chronological order.

A block has at most `BLOCK_ROWS` rows and its own random generator, and shows the histories as of its start. So its rows depend
on the spec, the day, the block's number and earlier clicks, never on the sizes of files.

Shapes: R requests of K rows, N = R·K rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raymtl.synth import engagement, intent
from raymtl.synth.attributes import describe_items, describe_users
from raymtl.synth.behaviours import Behaviours, Past, usual_shares
from raymtl.synth.chance import generator
from raymtl.synth.clock import DAY_MS, milliseconds
from raymtl.synth.delay import BuyDelays
from raymtl.synth.history import History
from raymtl.synth.interest import add_earlier_steps, interest
from raymtl.synth.population import Draw, Population
from raymtl.synth.rows import Day, Rows
from raymtl.synth.scales import ENGAGEMENT
from raymtl.synth.scenario_tastes import LOADS, ScenarioTastes
from raymtl.synth.scores import day_tables, score
from raymtl.synth.spec import SynthSpec
from raymtl.synth.truth import (
    AGAINST_CLICK,
    BUY,
    CART,
    CLICK,
    OUTPUTS,
    VIEWS,
    WATCH,
    WATCH_SPREAD,
    Effects,
    chances,
    spend,
    start_scores,
)

BLOCK_ROWS = 65_536
_RANKER_NOISE = 1.0  # logits; the old ranker knows the relevance with a correlation of about 0.7


@dataclass(frozen=True)
class _Shown:
    """Requests as shown, before any reaction; scores [N, O] exclude the position."""

    user: np.ndarray
    scenario: np.ndarray
    hour: np.ndarray
    time_ms: np.ndarray
    shuffled: np.ndarray
    item: np.ndarray
    history: np.ndarray
    history_categories: np.ndarray
    history_valid: np.ndarray
    scores: np.ndarray
    engagement: np.ndarray | None
    past: Past | None


class Shard:
    """Generates the rows of one shard; days in order, each once."""

    def __init__(self, spec: SynthSpec, shard: int = 0, intercepts: np.ndarray | None = None):
        self._spec, self._shard = spec, shard
        self._users = Population(spec.seed, "user", spec.users, spec.new_users, 0.7, shard, spec.shards)
        self._items = Population(spec.seed, "item", spec.items, spec.new_items, 0.9)
        self._behaviours = Behaviours(spec, len(self._users)) if spec.behaviours else None
        self._delays = BuyDelays(spec) if spec.buy_delay_days else None
        self._history = self._behaviours.clicks if self._behaviours else History(len(self._users), spec.history)
        self._tastes = ScenarioTastes(spec) if spec.scenario_tastes else None
        share = np.cumsum([s.share for s in spec.scenarios])
        self._scenarios = share / share[-1]
        self._cart_not_logged = np.array([s.name in spec.cart_not_logged for s in spec.scenarios])
        self._intercepts = np.zeros_like(start_intercepts(spec)) if intercepts is None else intercepts
        if spec.interest:
            today = self.day(0)
            add_earlier_steps(self._history, spec, today.users.number, today.items, today.draw_item, shard)

    def day(self, number: int) -> Day:
        """The users, items and effects of day `number`."""
        spec = self._spec
        user_weights, item_weights = self._users.weights(number), self._items.weights(number)
        outputs = self._intercepts.shape[1]
        users = describe_users(
            spec, self._users.numbers(number), self._users.age_days(number), user_weights, number, outputs
        )
        items = describe_items(spec, self._items.numbers(number), self._items.age_days(number), number, outputs)
        funnel = day_tables(Effects(spec, number), users, items)
        ctr = 1 / (1 + np.exp(1.8 - funnel.item_main[:, CLICK] - 0.2 * items.noise[:, 0]))
        rating = np.clip(3.8 + 0.7 * funnel.item_main[:, CART] + 0.2 * items.noise[:, 1], 1, 5)
        if spec.missing_signal:
            funnel.item_main[:] += funnel.effects.withheld(items)
        more = Effects(spec, number, ENGAGEMENT, stream=6, first=len(OUTPUTS)) if spec.engagement else None
        usual = None
        if spec.behaviours or spec.interest:
            usual = usual_shares(items, item_weights, funnel.item_main, spec.categories)
        return Day(
            number=number,
            users=users,
            items=items,
            funnel=funnel,
            engagement=day_tables(more, users, items) if more else None,
            draw_user=Draw(user_weights),
            draw_item=Draw(item_weights),
            usual_shares=usual,
            item_ctr=np.where(items.age_days > 0, ctr, np.nan).astype(np.float32),
            item_rating=np.where((items.age_days > 0) & items.rated & ~items.rating_withheld, rating, np.nan).astype(
                np.float32
            ),
        )

    def rows(self, number: int) -> Iterator[Rows]:
        """The rows of day `number` in blocks."""
        spec = self._spec
        mine = spec.shard_rows(number, self._shard)
        requests = -(-mine // spec.request_rows)
        blocks = max(1, min(requests, max(spec.refreshes_per_day, -(-mine // BLOCK_ROWS))))
        today = self.day(number)
        (self._behaviours or self._history).clear(self._users.replaced(number))
        for block in range(blocks):
            first, end = requests * block // blocks, requests * (block + 1) // blocks
            place = (self._shard, number, block)
            random = generator(spec.seed, 3, *place)
            part = (block + np.sort(random.random(end - first))) / blocks
            count = min(end * spec.request_rows, mine) - first * spec.request_rows
            if self._behaviours:
                self._behaviours.refresh(number * DAY_MS + int(milliseconds(np.array([block / blocks]))[0]))
            rows = self._outcomes(today, random, self._show(today, random, part), first, count, place)
            self._remember(rows, place)
            yield rows

    def _remember(self, rows: Rows, place: tuple[int, ...]) -> None:
        """Add the clicks of a block to the histories of the next blocks."""
        spec, items = self._spec, rows.day.items
        clicks = np.flatnonzero(rows.labels[: rows.count, CLICK])
        slots, request = rows.item.reshape(-1)[clicks], clicks // spec.request_rows
        step = (rows.user[request], items.number[slots], items.category[slots])
        if not self._behaviours:
            self._history.add(*step)
            return
        time_ms = rows.day.number * DAY_MS + rows.time_ms[request]
        carted = rows.labels[clicks, CART] & rows.cart_logged[request]
        if rows.buy_after_ms is not None:
            after = rows.buy_after_ms[clicks]
        else:
            # most buys arrive early, few at the end of the window
            window = generator(spec.seed, 8, *place).random(len(clicks)) ** 4 * (spec.buy_window_hours * 3_600_000)
            after = window.astype(np.int64)
        arrival = np.where(rows.labels[clicks, BUY], time_ms + after, -1)
        self._behaviours.add(*step, time_ms, carted, arrival)

    def _show(self, day: Day, random: np.random.Generator, part: np.ndarray) -> "_Shown":
        spec = self._spec
        requests, width = len(part), spec.request_rows
        time_ms = milliseconds(part)
        hour = time_ms // 3_600_000
        user = day.draw_user(random.random(requests))
        scenario = np.searchsorted(self._scenarios, random.random(requests), side="right")
        # one candidate from each of K strata of the cumulative popularity: correct marginals, and no duplicates in a request
        item = day.draw_item((np.arange(width) + random.random((requests, width))) / width)
        past = self._behaviours.read(user, day.number * DAY_MS + time_ms) if self._behaviours else None
        history, categories, valid = (past.items, past.categories, past.valid) if past else self._history.read(user)
        scores = self._scores(day, (user, scenario, hour, item), categories, valid, past)

        shuffled = random.random(requests) < spec.random_order
        seen = _RANKER_NOISE * random.standard_normal((requests, width), dtype=np.float32)
        seen += np.where(shuffled[:, None], 0, scores[:, :, CLICK])
        order = np.argsort(-seen, axis=1)
        item = np.take_along_axis(item, order, axis=1)
        scores = np.take_along_axis(scores, order[:, :, None], axis=1)
        return _Shown(
            user=user,
            scenario=scenario,
            hour=hour,
            time_ms=time_ms,
            shuffled=shuffled,
            item=item,
            history=history,
            history_categories=categories,
            history_valid=valid,
            scores=scores.reshape(-1, len(OUTPUTS)),
            engagement=self._engagement_scores(day, (user, scenario, hour, item), scores),
            past=past,
        )

    def _outcomes(self, day: Day, random: np.random.Generator, shown: "_Shown", first: int, count: int, place) -> Rows:
        spec, flat = self._spec, shown.scores
        first_place = self._chances(flat)[:, CLICK]
        flat[:, CLICK] += day.funnel.effects.position[shown.scenario].reshape(-1)
        chance = drawn_from = self._chances(flat)
        if spec.hidden_intent:
            hidden = intent.draw(len(shown.user), spec.request_rows, generator(spec.seed, 11, *place))
            drawn_from = chances(intent.shifted(flat, spec.hidden_intent, hidden))
        draw = random.random(len(flat), dtype=np.float32)
        labels = draw[:, None] < drawn_from  # one draw for the whole funnel: buy ⊂ cart ⊂ click
        mean_views = np.exp(flat[:, VIEWS])
        watch_time = np.full(len(flat), np.nan, np.float32)
        clicked = np.flatnonzero(labels[:, CLICK])
        noise = random.standard_normal(len(clicked), dtype=np.float32)
        watch_time[clicked] = np.exp(flat[clicked, WATCH] + np.float32(WATCH_SPREAD) * noise)
        mean_watch = np.exp(flat[:, WATCH] + np.float32(WATCH_SPREAD**2 / 2))
        truth = np.column_stack([chance, first_place, mean_views, mean_watch])
        reacted = None
        if shown.engagement is not None:
            reacted = engagement.react(shown.engagement, chance, labels, generator(spec.seed, 5, *place))
        after = None
        if self._delays is not None:
            bought, after = np.flatnonzero(labels[:, BUY]), np.full(len(labels), -1)
            pairs = shown.user[bought // spec.request_rows], shown.item.reshape(-1)[bought]
            means = self._delays.mean_ms(day.users, day.items, *pairs)
            after[bought] = self._delays.draw_ms(means, generator(spec.seed, 12, *place))
        spent = None
        if spec.spend:
            spent = spend(day.items.price[shown.item.reshape(-1)], chance, labels, generator(spec.seed, 9, *place))
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
            history_categories=shown.history_categories,
            history_valid=shown.history_valid,
            item=shown.item,
            truth=truth,
            bought_if_clicked=intent.bought_if_clicked(flat, spec.hidden_intent) if spec.hidden_intent else None,
            labels=labels,
            cart_logged=~(self._cart_not_logged[shown.scenario] | (day.users.app[shown.user] == 0)),
            page_views=random.poisson(mean_views),
            watch_time=watch_time,
            buy_after_ms=after,
            spend=spent,
            past=shown.past,
            engagement=reacted,
        )

    def sample(self, requests: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores with the position and the intent [N, O], and scenarios [N] of a sample of the first day, without outcomes.

        O includes the outputs of `engagement`, if any.
        """
        day, random = self.day(0), generator(self._spec.seed, 4)
        shown = self._show(day, random, np.sort(random.random(requests)))
        shown.scores[:, CLICK] += day.funnel.effects.position[shown.scenario].reshape(-1)
        if self._spec.hidden_intent:
            hidden = intent.draw(requests, self._spec.request_rows, random)
            shown.scores[:, : len(intent.LOADS)] = intent.shifted(shown.scores, self._spec.hidden_intent, hidden)
        scores = shown.scores if shown.engagement is None else np.hstack([shown.scores, shown.engagement])
        return scores, np.repeat(shown.scenario, self._spec.request_rows)

    def _chances(self, scores: np.ndarray) -> np.ndarray:
        """True probabilities of click, cart and buy given the columns, [N, 3]."""
        strength = self._spec.hidden_intent
        return intent.mean_chances(scores, strength) if strength else chances(scores)

    def _scores(self, day: Day, shown, categories: np.ndarray, valid: np.ndarray, past: Past | None) -> np.ndarray:
        """The funnel's scores without position, [R, K, O] float32."""
        user, scenario, _, item = shown
        category, intercepts = day.items.category[item], self._intercepts[:, : len(OUTPUTS)]
        match = None
        if self._spec.interest and day.usual_shares is not None:
            match = np.float32(self._spec.interest) * interest(categories, valid, category, day.usual_shares[CLICK])
        elif past is None:
            match = _share_of(categories, valid, category)
        scores = score(day.funnel, day.users, day.items, shown, intercepts, match)
        if self._behaviours is not None and past is not None and day.usual_shares is not None:
            scores += self._behaviours.effects.scores(past, category, scenario, day.usual_shares)
        if self._tastes is not None:
            scores[:, :, : len(LOADS)] += self._tastes.scores(scenario, day.users.segment[user], category)
        if self._spec.conflict:
            taste = scores[:, :, CLICK] - intercepts[scenario, CLICK, None]
            for output, multiple in AGAINST_CLICK.items():
                scores[:, :, output] -= np.float32(self._spec.conflict * multiple) * taste
        return scores

    def _engagement_scores(self, day: Day, shown, scores: np.ndarray) -> np.ndarray | None:
        """Scores of the engagement [N, 6] for requests in their final order, whose scores in the funnel are `scores`."""
        if day.engagement is None:
            return None
        taste = scores[:, :, CLICK] - self._intercepts[shown[1], CLICK, None]
        own = score(day.engagement, day.users, day.items, shown, self._intercepts[:, len(OUTPUTS) :])
        return engagement.with_click_taste(own, taste).reshape(-1, len(engagement.OUTPUTS))


def start_intercepts(spec: SynthSpec) -> np.ndarray:
    """Initial intercepts of all outputs before calibration, [S, O]."""
    more = [engagement.start_scores()] if spec.engagement else []
    return np.tile(np.concatenate([start_scores(), *more]), (len(spec.scenarios), 1))


def _share_of(history_category: np.ndarray, valid: np.ndarray, category: np.ndarray) -> np.ndarray:
    """Share of the history [R, L] that has the category of the item [R, K]; 0 for an empty history; [R, K] float32."""
    past = np.where(valid, history_category, -1)
    same = (past[:, None, :] == category[:, :, None].astype(np.int16)).sum(axis=2, dtype=np.float32)
    return same / np.maximum(valid.sum(axis=1), 1)[:, None].astype(np.float32)
