"""What a shard passes to the columns: the state of a day, and blocks of its rows.

Shapes: R requests of K rows, N = R·K rows.
"""

from dataclasses import dataclass

import numpy as np

from raymtl.synth.attributes import Items, Users
from raymtl.synth.behaviours import Past
from raymtl.synth.engagement import Engagement
from raymtl.synth.population import Draw
from raymtl.synth.scores import Tables


@dataclass(frozen=True)
class Day:
    """Everything that is fixed during one day."""

    number: int
    users: Users
    items: Items
    funnel: Tables
    engagement: Tables | None
    draw_user: Draw
    draw_item: Draw
    usual_shares: np.ndarray | None
    """Category shares in all clicks, carts and buys, [3, categories]; only with `behaviours` or `interest`."""
    item_ctr: np.ndarray
    """Click rate of the last 7 days as a statistics job published it: noisy; NaN for an item that is new today."""
    item_rating: np.ndarray
    """1 to 5, noisy; NaN for new items and items without ratings."""


@dataclass(frozen=True)
class Rows:
    """N rows, request by request in the order of positions; slots index the tables of `day`."""

    day: Day
    count: int
    """Rows that exist: N, or less in the day's last block, whose last request is truncated."""
    user: np.ndarray
    """User slot of every request, [R]."""
    scenario: np.ndarray
    hour: np.ndarray
    time_ms: np.ndarray
    """After midnight, [R]."""
    shuffled: np.ndarray
    """Whether the order was random, [R]."""
    first_request: int
    """Number of the first request within shard and day."""
    history: np.ndarray
    """Item numbers [R, L]."""
    history_categories: np.ndarray
    history_valid: np.ndarray
    item: np.ndarray
    """Item slot of every row, [R, K]."""
    truth: np.ndarray
    """P(click), P(cart), P(buy), P(click at position 1), mean page views, mean watch time, [N, 6] float32."""
    labels: np.ndarray
    """click, cart, buy, whether logged or not, [N, 3] bool."""
    cart_logged: np.ndarray
    """Whether the app logs carts, [R] bool."""
    page_views: np.ndarray
    watch_time: np.ndarray
    """Seconds, [N] float32; NaN without a click."""
    bought_if_clicked: np.ndarray | None = None
    """P(buy) of a visitor who is made to click, [N]; only with `hidden_intent`."""
    buy_after_ms: np.ndarray | None = None
    """Milliseconds from the impression to its buy, −1 without a buy, [N] int64; only with `buy_delay_days`."""
    spend: np.ndarray | None = None
    """Amounts spent and their true means, [N, 2] float32; only with `spend`."""
    past: Past | None = None
    """Only with `behaviours`; `history` is its clicks."""
    engagement: Engagement | None = None
