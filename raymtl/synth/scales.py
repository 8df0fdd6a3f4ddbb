"""Strength of the effects on the outputs of the funnel (`truth.OUTPUTS`) and of the engagement (`engagement.OUTPUTS`)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scales:
    """Strength of each effect, one number per output: a standard deviation, or a slope if its name ends with `_slope`."""

    segment: tuple[float, ...]
    age: tuple[float, ...]
    gender: tuple[float, ...]
    city: tuple[float, ...]
    activity_slope: tuple[float, ...]
    user_residual: tuple[float, ...]
    category: tuple[float, ...]
    brand: tuple[float, ...]
    tags: tuple[float, ...]
    fresh_slope: tuple[float, ...]
    item_residual: tuple[float, ...]
    cross: tuple[float, ...]
    price_slope: tuple[float, ...]
    price_spread: tuple[float, ...]
    hour: tuple[float, ...]
    device: tuple[float, ...]
    age_tags: tuple[float, ...]
    taste: tuple[float, ...]
    history_slope: tuple[float, ...]


# Effects that a model must learn per ID (`residual`, `taste`) are smaller than those that few parameters describe, so that one
# epoch over some million rows is enough.
FUNNEL = Scales(
    segment=(0.36, 0.18, 0.14, 0.15, 0.10),
    age=(0.30, 0.15, 0.18, 0.10, 0.10),
    gender=(0.18, 0.10, 0.10, 0.05, 0.05),
    city=(0.15, 0.06, 0.05, 0.06, 0.05),
    activity_slope=(0.30, 0.12, 0.12, 0.10, 0.05),
    user_residual=(0.12, 0.06, 0.04, 0.06, 0.05),
    category=(0.38, 0.22, 0.12, 0.15, 0.20),
    brand=(0.30, 0.10, 0.05, 0.10, 0.10),
    tags=(0.22, 0.08, 0.05, 0.08, 0.06),
    fresh_slope=(-0.18, -0.05, 0.0, -0.05, 0.0),
    item_residual=(0.12, 0.06, 0.04, 0.06, 0.05),
    cross=(0.35, 0.16, 0.06, 0.12, 0.12),
    price_slope=(0.05, -0.35, -0.50, 0.10, 0.05),
    price_spread=(0.20, 0.10, 0.08, 0.05, 0.05),
    hour=(0.10, 0.05, 0.05, 0.05, 0.05),
    device=(0.15, 0.10, 0.10, 0.08, 0.08),
    age_tags=(0.10, 0.05, 0.03, 0.04, 0.03),
    taste=(0.08, 0.04, 0.02, 0.03, 0.02),
    history_slope=(0.9, 0.3, 0.2, 0.2, 0.2),
)
"""click, cart given click, buy given cart, page views, watch time."""
ENGAGEMENT = Scales(
    segment=(0.25, 0.25, 0.30, 0.25, 0.25, 0.15),
    age=(0.25, 0.20, 0.30, 0.25, 0.20, 0.15),
    gender=(0.15, 0.15, 0.10, 0.10, 0.10, 0.05),
    city=(0.06, 0.06, 0.06, 0.06, 0.06, 0.05),
    activity_slope=(0.15, 0.20, 0.25, 0.15, -0.20, 0.05),
    user_residual=(0.10, 0.08, 0.10, 0.08, 0.06, 0.08),
    category=(0.35, 0.30, 0.35, 0.35, 0.30, 0.25),
    brand=(0.20, 0.15, 0.15, 0.15, 0.20, 0.25),
    tags=(0.20, 0.15, 0.20, 0.20, 0.15, 0.10),
    fresh_slope=(0.0, 0.0, -0.20, -0.15, -0.05, 0.0),
    item_residual=(0.10, 0.08, 0.10, 0.08, 0.06, 0.10),
    cross=(0.35, 0.30, 0.35, 0.30, 0.25, 0.20),
    price_slope=(-0.10, 0.30, -0.10, -0.15, 0.0, -0.10),
    price_spread=(0.08, 0.08, 0.08, 0.08, 0.08, 0.08),
    hour=(0.05, 0.05, 0.10, 0.05, 0.05, 0.0),
    device=(0.10, 0.10, 0.20, 0.15, 0.10, 0.05),
    age_tags=(0.08, 0.06, 0.08, 0.06, 0.05, 0.05),
    taste=(0.08, 0.06, 0.08, 0.06, 0.05, 0.05),
    history_slope=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
)
"""like, favourite, comment, share, follow, stars."""
