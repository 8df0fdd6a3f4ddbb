"""`SynthSpec`, what to generate, and `SynthSummary`, what was generated."""

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section, quoted

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class ScenarioSpec(Section):
    """One place of the app where items are shown."""

    name: str
    """Value of the column `scenario`."""
    share: PositiveFloat
    """Share of the requests; shares are divided by their sum."""
    click_rate: Rate
    """Clicks per impression, about."""


_SCENARIOS = (
    ScenarioSpec(name="feed", share=0.6, click_rate=0.12),
    ScenarioSpec(name="search", share=0.3, click_rate=0.22),
    ScenarioSpec(name="live", share=0.1, click_rate=0.16),
)


class SynthSpec(Section):
    """The size and the nature of the logs. Equal specs give equal rows; `rows_per_file` and `row_group_rows` only cut them."""

    seed: NonNegativeInt = 0
    """Random seed; another one gives other users, items and tastes."""
    start: dt.date = dt.date(2026, 1, 1)
    """First day."""
    days: PositiveInt = 6
    """Number of days; the last one is for evaluation in the `config.yaml` beside the logs."""
    rows_per_day: PositiveInt = 1_000_000
    """Impressions per day."""
    last_day_rows: PositiveInt | None = None
    """Impressions of the last day; none: `rows_per_day`."""
    users: PositiveInt = 20_000
    """Users alive on any one day. Memory grows by about 300 bytes per user."""
    items: PositiveInt = 5_000
    """Items alive on any one day. Memory grows by about 200 bytes per item."""
    new_users: Share = 0.02
    """Share of the users replaced by new ones, with new IDs, every day."""
    new_items: Share = 0.02
    """Share of the items replaced by new ones every day."""
    scenarios: Annotated[tuple[ScenarioSpec, ...], Field(min_length=1)] = _SCENARIOS
    """The scenarios; tastes, prices, hours and positions matter differently in each."""
    cart_rate: Rate = 0.04
    """Carts per impression over all scenarios, about (also where the cart is not logged)."""
    buy_rate: Rate = 0.012
    """Buys per impression over all scenarios, about."""
    segments: PositiveInt = 8
    """Values of `user_segment`."""
    categories: Annotated[int, Field(ge=1, le=32_767)] = 30
    """Values of `category`."""
    brands: PositiveInt = 300
    """Values of `brand`; each belongs to one category."""
    tag_values: PositiveInt = 300
    """Values of the list column `tags`."""
    cities: PositiveInt = 100
    """Values of `city`."""
    request_rows: Annotated[int, Field(ge=1, le=100)] = 10
    """Impressions of one request: one user, one moment, positions 1 to this."""
    random_order: Share = 0.15
    """Share of the requests shown in random order; the others were sorted by a noisy old ranker."""
    history: NonNegativeInt = 20
    """Items at most in `hist_items`; 0 leaves the column empty. Memory grows by 6 bytes per user and step."""
    refreshes_per_day: PositiveInt = 96
    """Times a day at which `hist_items` takes up the clicks made since; more often where 65,536 rows come first."""
    drift: NonNegativeFloat = 0.03
    """Rotation of all tastes per day, in radians; 0: no drift."""
    signal: PositiveFloat = 1.0
    """Factor on all effects; a larger one raises the best achievable AUC."""
    old_app: Share = 0.15
    """Share of the users with app version 4.0, which does not log the cart (null)."""
    cart_not_logged: tuple[str, ...] = ("live",)
    """Scenarios that do not log the cart (null)."""
    behaviours: bool = False
    """Adds the histories `hist_carts` and `hist_buys`, and how far each step of `hist_items` went, how long ago and at which
    hour. All of it moves the labels. Memory grows by 24 bytes more per user and step."""
    engagement: bool = False
    """Adds the labels `like`, `favourite`, `comment`, `share`, `follow` and `stars` with tastes of their own; nothing else
    changes."""
    conflict: Share = 0.0
    """Task conflict: how much the tastes behind cart and buy differ from those behind clicks: from about 0.5 on they have little
    to do with each other, at 1 they are opposite."""
    missing_signal: Share = 0.0
    """Every day a quarter of this share of the items withholds its price, and another such part its rating, for reasons that
    move the labels."""
    position: Literal["id", "bias"] = "id"
    """What `config.yaml` makes of the position: an ordinary ID, or a `bias` that only a position tower reads."""
    buy_window_hours: NonNegativeFloat = 3.0
    """Time that a buy takes at most to arrive. A day is written at its end, so rows of its last so many hours are immature."""
    rows_per_file: PositiveInt = 250_000
    """Rows of one parquet file."""
    row_group_rows: PositiveInt = 62_500
    """Rows of one row group."""
    hours: bool = False
    """Partition by `hour=HH` below the day too."""
    shards: PositiveInt = 1
    """Parts, by user, that are generated independently of each other, by as many processes at most. Part of the content."""

    @model_validator(mode="after")
    def _consistent(self) -> "SynthSpec":
        names = [s.name for s in self.scenarios]
        if len(set(names)) != len(names) or {"all", "other"} & set(names):
            raise ValueError(
                f"scenarios has the names {quoted(names)}; give them distinct names other than `all` and `other`"
            )
        if unknown := sorted(set(self.cart_not_logged) - set(names)):
            raise ValueError(f"cart_not_logged has `{unknown[0]}`, not one of the scenarios; use {quoted(names)}")
        lowest = min(self.scenarios, key=lambda s: s.click_rate)
        if not self.buy_rate < self.cart_rate < lowest.click_rate:
            raise ValueError(
                f"buy_rate is {self.buy_rate}, cart_rate {self.cart_rate} and the lowest click_rate {lowest.click_rate} "
                f"(scenario `{lowest.name}`); change them so that buy_rate < cart_rate < every click_rate"
            )
        if self.shards > self.users:
            raise ValueError(f"shards is {self.shards}, more than users = {self.users}; lower shards or raise users")
        item_ids = self.items * (2 + self.days * self.new_items)
        if item_ids >= 2**31:
            raise ValueError(
                f"items = {self.items} over {self.days} days (new_items = {self.new_items}) may need {item_ids:.2g} item IDs, "
                "more than 2^31; lower items, days or new_items"
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
    """Mean of each label over the rows where it is observed."""
    label_nulls: dict[str, float]
    """Share of rows where it is not."""
