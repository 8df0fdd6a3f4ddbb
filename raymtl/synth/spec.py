"""`SynthSpec`, what to generate, and `SynthSummary`, what was generated."""

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section, quoted

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class ScenarioSpec(Section):
    """A part of the app that shows items."""

    name: str
    """Value of the column `scenario`."""
    share: PositiveFloat
    """Share of the requests; shares are divided by their sum."""
    click_rate: Rate
    """Approximate clicks per impression."""


_SCENARIOS = (
    ScenarioSpec(name="feed", share=0.6, click_rate=0.12),
    ScenarioSpec(name="search", share=0.3, click_rate=0.22),
    ScenarioSpec(name="live", share=0.1, click_rate=0.16),
)

_BUY_WINDOW_HOURS = 3.0


class SynthSpec(Section):
    """Size and properties of the logs. Equal specs give equal rows, whatever `rows_per_file` and `row_group_rows` are."""

    seed: NonNegativeInt = 0
    """Random seed; a different seed generates different users, items and preferences."""
    start: dt.date = dt.date(2026, 1, 1)
    """First day."""
    days: PositiveInt = 6
    """Number of days; the `config.yaml` of the logs evaluates on the last one."""
    rows_per_day: PositiveInt = 1_000_000
    """Impressions per day."""
    last_day_rows: PositiveInt | None = None
    """Impressions of the last day; null: `rows_per_day`."""
    users: PositiveInt = 20_000
    """Users at any one time. Memory grows by about 300 bytes per user."""
    items: PositiveInt = 5_000
    """Items at any one time. Memory grows by about 200 bytes per item."""
    new_users: Share = 0.02
    """Share of the users that are replaced by new ones, with new IDs, every day."""
    new_items: Share = 0.02
    """Share of the items that are replaced by new ones every day."""
    scenarios: Annotated[tuple[ScenarioSpec, ...], Field(min_length=1)] = _SCENARIOS
    """The scenarios; preferences, prices, hours and positions have different effects in each."""
    cart_rate: Rate = 0.04
    """Approximate carts per impression over all scenarios, including those that are not logged."""
    buy_rate: Rate = 0.012
    """Approximate buys per impression over all scenarios."""
    segments: PositiveInt = 8
    """Number of values of `user_segment`."""
    categories: Annotated[int, Field(ge=1, le=32_767)] = 30
    """Number of values of `category`."""
    brands: PositiveInt = 300
    """Number of values of `brand`; each belongs to one category."""
    tag_values: PositiveInt = 300
    """Number of values of the list column `tags`."""
    cities: PositiveInt = 100
    """Number of values of `city`."""
    request_rows: Annotated[int, Field(ge=1, le=100)] = 10
    """Impressions per request: one user, one time, positions 1 to this number."""
    random_order: Share = 0.15
    """Share of the requests shown in random order; a noisy old ranker sorts the others."""
    history: NonNegativeInt = 20
    """Maximum length of `hist_items`; 0 leaves the column empty. Memory grows by 6 bytes per user and step."""
    refreshes_per_day: PositiveInt = 96
    """How often per day new clicks are added to `hist_items`; at least every 65,536 rows."""
    drift: NonNegativeFloat = 0.03
    """Preference drift: rotation of all preference vectors per day, in radians; 0: none."""
    signal: PositiveFloat = 1.0
    """Factor on all effects; the larger, the higher the best achievable AUC."""
    old_app: Share = 0.15
    """Share of the users with app version 4.0, which does not log carts (null)."""
    cart_not_logged: tuple[str, ...] = ("live",)
    """Scenarios that do not log carts (null)."""
    behaviours: bool = False
    """Adds the histories `hist_carts` and `hist_buys`, and for each step of `hist_items` its kind (click, cart, buy), age and
    hour. All of them affect the labels. Memory grows by another 24 bytes per user and step."""
    interest: NonNegativeFloat = 0.0
    """Strength of interests that depend on the item: the first steps of `hist_items` in its category raise its scores most. Adds
    `hist_categories`, the favourite categories of users, and their past before the first day. 0: none of it."""
    engagement: bool = False
    """Adds the labels `like`, `favourite`, `comment`, `share`, `follow` and `stars` with their own preferences; nothing else
    changes."""
    spend: bool = False
    """Adds the label `spend`, the amount of a buy and 0 without one; nothing else changes."""
    conflict: Share = 0.0
    """Task conflict: how much the preferences behind cart and buy differ from those behind clicks; from about 0.5 on they are
    nearly independent, at 1 opposed."""
    hidden_intent: NonNegativeFloat = 0.0
    """Strength of a visitor's intent, one hidden number per request that drives click, cart and buy alike: it biases what is
    learned from clicked rows. Adds `p_buy_if_clicked`."""
    scenario_tastes: NonNegativeFloat = 0.0
    """Strength of preferences of every scenario's own: each weighs the same few traits of items and users by other numbers."""
    missing_signal: Share = 0.0
    """How informative the nulls of `price` and `rating` are: every day, a quarter of this share of the items has no price, and
    as many have no rating, for reasons that affect the labels."""
    position: Literal["id", "bias"] = "id"
    """How `config.yaml` uses the position: as an ordinary ID, or as a `bias` feature that only a position tower reads."""
    buy_window_hours: NonNegativeFloat = _BUY_WINDOW_HOURS
    """Longest delay of a buy. The logs of a day end with the day, so `buy` is not final for rows of its last hours. Not used with
    `buy_delay_days`."""
    buy_delay_days: NonNegativeInt = 0
    """Longest delay of a buy in days; it depends on category, price and user segment. Adds `buy_time`; `buy` is then final in all
    rows, and `config.yaml` sets `delay_days` of its task. 0: `buy_window_hours` instead."""
    rows_per_file: PositiveInt = 250_000
    """Rows per parquet file."""
    row_group_rows: PositiveInt = 62_500
    """Rows per row group."""
    layout: Literal["flat", "nested"] = "flat"
    """`nested`: a row of the files is a request, with its rows in the list `impressions`; the rows are the same."""
    hours: bool = False
    """Also partition each day by `hour=HH`."""
    shards: PositiveInt = 1
    """Number of independent parts, by user; at most this many processes can work. It changes the rows."""

    @model_validator(mode="after")
    def _consistent(self) -> "SynthSpec":
        names = [s.name for s in self.scenarios]
        if len(set(names)) != len(names) or {"all", "other"} & set(names):
            raise ValueError(
                f"scenarios has the names {quoted(names)}; give them distinct names other than `all` and `other`"
            )
        if unknown := sorted(set(self.cart_not_logged) - set(names)):
            raise ValueError(
                f"cart_not_logged has `{unknown[0]}`, which is not one of the scenarios {quoted(names)}; use one of these"
            )
        lowest = min(self.scenarios, key=lambda s: s.click_rate)
        if not self.buy_rate < self.cart_rate < lowest.click_rate:
            raise ValueError(
                f"buy_rate is {self.buy_rate:g}, cart_rate {self.cart_rate:g} and the lowest click_rate {lowest.click_rate:g} "
                f"(scenario `{lowest.name}`); set them so that buy_rate < cart_rate < every click_rate"
            )
        if self.interest and not self.history:
            raise ValueError(
                f"interest is {self.interest:g}, but history is 0; set history to the most steps of a user"
            )
        if self.buy_delay_days and self.buy_window_hours != _BUY_WINDOW_HOURS:
            raise ValueError(
                f"buy_window_hours is {self.buy_window_hours:g} and buy_delay_days {self.buy_delay_days}, which replaces it; "
                f"remove one of them"
            )
        if self.shards > self.users:
            raise ValueError(f"shards is {self.shards}, more than users = {self.users}; lower shards or raise users")
        numbers = self.items * (2 + self.days * self.new_items)
        if numbers >= 2**31:
            raise ValueError(
                f"items = {self.items} over {self.days} days (new_items = {self.new_items:g}) needs {numbers:.2g} item IDs, "
                f"more than 2^31; lower items, days or new_items"
            )
        return self

    def dates(self) -> list[dt.date]:
        """All days in order."""
        return [self.start + dt.timedelta(days=n) for n in range(self.days)]

    def rows_on(self, day: int) -> int:
        """Rows of day number `day` (from 0) over all shards."""
        last = day == self.days - 1 and self.last_day_rows is not None
        return self.last_day_rows if last else self.rows_per_day  # type: ignore[return-value]

    def shard_rows(self, day: int, shard: int) -> int:
        """Rows of one shard on day number `day`."""
        rows = self.rows_on(day)
        return rows * (shard + 1) // self.shards - rows * shard // self.shards


@dataclass(frozen=True)
class SynthSummary:
    """A summary of the written logs."""

    path: str
    """Root of the logs."""
    config: str
    """Path of their configuration."""
    rows: int
    files: int
    bytes: int
    """Bytes of the parquet files."""
    seconds: float
    label_means: dict[str, float]
    """Mean of each label over its observed rows."""
    label_nulls: dict[str, float]
    """Share of rows in which the label is null."""
