"""Attributes of users and items: columns that a model sees, and hidden tastes and qualities.

Everything is a function of the entity's number and the day, by `chance`. R: outputs of `truth.OUTPUTS`, F: width of a taste.
"""

from dataclasses import dataclass

import numpy as np

from raymtl.synth.chance import generator, normal, uniform
from raymtl.synth.spec import SynthSpec

AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
GENDERS = ("f", "m", "x")
DEVICES = ("android", "ios", "web")
APPS = ("4.0", "5.0", "5.1", "6.0")
TAGS = 5
"""Maximum tags of an item."""
TASTE = 3
"""Width of the pure user × item taste."""
_MOST_WITHHELD = 0.25  # share of the items at `missing_signal` 1


@dataclass(frozen=True)
class Users:
    """Every slot's user on one day; arrays over slots."""

    number: np.ndarray
    segment: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    city: np.ndarray
    device: np.ndarray
    app: np.ndarray
    activity: np.ndarray
    """Clicks of the last 30 days as a profile service counted them, float32; NaN for a user who is new today."""
    residual: np.ndarray
    """Effects that only the ID reveals, [N, R] float32."""
    taste: np.ndarray
    """[N, F] float32."""


@dataclass(frozen=True)
class Items:
    """Every slot's item on one day; arrays over slots."""

    number: np.ndarray
    category: np.ndarray
    brand: np.ndarray
    tags: np.ndarray
    """[N, TAGS] int64, the first `tag_count` of them valid."""
    tag_count: np.ndarray
    """0 to TAGS, or −1: the list is null."""
    price: np.ndarray
    """float32, heavy tail, NaN where unknown."""
    age_days: np.ndarray
    noise: np.ndarray
    """Noise of the published statistics (click rate, rating), [N, 2] float32; new every day."""
    rated: np.ndarray
    """Whether the item has ratings."""
    price_withheld: np.ndarray
    """Whether the price is missing today for a reason that affects the labels."""
    rating_withheld: np.ndarray
    """The same for the rating."""
    residual: np.ndarray
    """[N, R] float32."""
    taste: np.ndarray
    """[N, F] float32."""


def describe_users(
    spec: SynthSpec, number: np.ndarray, age_days: np.ndarray, weights: np.ndarray, day: int, outputs: int
) -> Users:
    """The attributes of the users `number` on `day`; `weights` is their share of the traffic."""
    seed = spec.seed
    clicks = (
        weights / weights.mean() * np.exp(0.4 * normal(seed, "user activity", number)) * np.minimum(age_days, 30) * 2
    )
    return Users(
        number=number,
        segment=_skewed(seed, "user segment", number, spec.segments, 1.4),
        age=_skewed(seed, "user age", number, len(AGES), 1.3),
        gender=_skewed(seed, "user gender", number, len(GENDERS), 1.6),
        city=_skewed(seed, "user city", number, spec.cities, 2.0),
        device=_skewed(seed, "user device", number, len(DEVICES), 1.5),
        app=_app(uniform(seed, "user app", number), spec.old_app),
        activity=np.where(age_days > 0, np.round(clicks), np.nan).astype(np.float32),
        residual=_normals(seed, "user residual", number, outputs),
        taste=_turned(seed, "user taste", number, TASTE, spec.drift * day),
    )


def describe_items(spec: SynthSpec, number: np.ndarray, age_days: np.ndarray, day: int, outputs: int) -> Items:
    """The attributes of the items `number` on `day`."""
    seed = spec.seed
    category = _skewed(seed, "item category", number, spec.categories, 1.4)
    per_category = max(1, spec.brands // spec.categories)
    brand = np.minimum(
        category * per_category + _skewed(seed, "item brand", number, per_category, 1.5), spec.brands - 1
    )
    level = generator(seed, 1).normal(3.0, 0.6, spec.categories)[category]
    tail = 0.6 * normal(seed, "item price", number) + 0.8 * np.maximum(normal(seed, "item luxury", number) - 1.5, 0)
    count = np.minimum((uniform(seed, "item tag count", number) * (TAGS + 1)).astype(np.int64), TAGS)
    count[uniform(seed, "item tags null", number) < 0.03] = -1
    tags = np.stack([_tag(spec, n, number, category) for n in range(TAGS)], axis=1)
    price = np.round(np.exp(level + tail), 2)
    price_withheld, rating_withheld = (_withheld(spec, name, number, day) for name in ("price", "rating"))
    unknown = price_withheld | (uniform(seed, "item price null", number) < 0.05)
    return Items(
        number=number,
        category=category,
        brand=brand,
        tags=tags,
        tag_count=count,
        price=np.where(unknown, np.nan, price).astype(np.float32),
        age_days=age_days.astype(np.float32),
        noise=_normals(seed, f"item noise {day}", number, 2),
        rated=uniform(seed, "item rated", number) > 0.1,
        price_withheld=price_withheld,
        rating_withheld=rating_withheld,
        residual=_normals(seed, "item residual", number, outputs),
        taste=_turned(seed, "item taste", number, TASTE, 0.0),
    )


def _withheld(spec: SynthSpec, name: str, number: np.ndarray, day: int) -> np.ndarray:
    """Different items every day, so that no ID reveals them."""
    if not spec.missing_signal:
        return np.zeros(len(number), bool)
    return uniform(spec.seed, f"item {name} withheld {day}", number) < _MOST_WITHHELD * spec.missing_signal


def _tag(spec: SynthSpec, place: int, number: np.ndarray, category: np.ndarray) -> np.ndarray:
    """A tag that half the time belongs to the item's category: each category has its own tags."""
    own = uniform(spec.seed, f"item tag own {place}", number) < 0.5
    draw = uniform(spec.seed, f"item tag {place}", number)
    near = (category * spec.tag_values // spec.categories + (draw * 12).astype(np.int64)) % spec.tag_values
    return np.where(own, near, (draw**1.7 * spec.tag_values).astype(np.int64))


def _app(draw: np.ndarray, old: float) -> np.ndarray:
    """Index into APPS: 0 for the old version, the others with equal shares."""
    newer = 1 + np.minimum((draw - old) / max(1 - old, 1e-9) * (len(APPS) - 1), len(APPS) - 2).astype(np.int64)
    return np.where(draw < old, 0, newer)


def _skewed(seed: int, stream: str, number: np.ndarray, values: int, power: float) -> np.ndarray:
    """An integer in [0, values); the higher `power`, the more frequent small ones are."""
    return np.minimum((uniform(seed, stream, number) ** power * values).astype(np.int64), values - 1)


def _normals(seed: int, stream: str, number: np.ndarray, width: int) -> np.ndarray:
    return np.stack([normal(seed, f"{stream} {n}", number) for n in range(width)], axis=1)


def _turned(seed: int, stream: str, number: np.ndarray, width: int, angle: float) -> np.ndarray:
    """A vector rotated by `angle` in a random plane of the entity."""
    first = _normals(seed, f"{stream} from", number, width)
    if angle == 0:
        return first
    second = _normals(seed, f"{stream} to", number, width)
    return (np.cos(angle) * first + np.sin(angle) * second).astype(np.float32)
