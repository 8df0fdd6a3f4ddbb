"""Labels beyond the funnel, with `engagement`: a user's actions after a click, and the stars of the rating.

Their scores have the same form as the funnel's, with their own effects, plus a multiple of the click's preferences: positive if
they agree with the click, negative if they oppose it.
"""

from dataclasses import dataclass

import numpy as np

from raymtl.synth.truth import CLICK

ACTIONS = ("like", "favourite", "comment", "share", "follow")
OUTPUTS = (*ACTIONS, "stars")
RATES = (0.03, 0.015, 0.006, 0.008, 0.004)
"""Approximate rate of each action per impression."""
_TASTE_OF_CLICK = np.array([0.5, 0.4, -0.6, 0.2, -0.5, 0.3], dtype=np.float32)
MOST_STARS = 5
_MEAN_STARS = 3.8


@dataclass(frozen=True)
class Engagement:
    """The reactions to N rows."""

    actions: np.ndarray
    """In the order of `ACTIONS`, [N, 5] bool; false without a click."""
    stars: np.ndarray
    """1 to 5, [N] float32; NaN without a click."""
    truth: np.ndarray
    """True probabilities of the actions, and the mean of the stars given a click, [N, 6] float32."""


def with_click_taste(scores: np.ndarray, click: np.ndarray) -> np.ndarray:
    """Scores [R, K, 6] plus their multiple of the click's preferences [R, K] (its score without intercept and position)."""
    return scores + click[:, :, None] * _TASTE_OF_CLICK


def react(scores: np.ndarray, chance: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> Engagement:
    """Draw the reactions after the clicks: `scores` [N, 6], `chance` and `labels` of the funnel [N, 3]."""
    steps = 1 / (1 + np.exp(-scores))
    clicked = labels[:, CLICK]
    actions = (random.random(steps[:, :-1].shape, dtype=np.float32) < steps[:, :-1]) & clicked[:, None]
    given = np.flatnonzero(clicked)
    stars = np.full(len(scores), np.nan, np.float32)
    stars[given] = 1 + random.binomial(MOST_STARS - 1, steps[given, -1])
    truth = np.column_stack([chance[:, CLICK, None] * steps[:, :-1], 1 + (MOST_STARS - 1) * steps[:, -1]])
    return Engagement(actions, stars, truth)


def start_scores() -> np.ndarray:
    """Initial scores before calibration, [6]."""
    share = (_MEAN_STARS - 1) / (MOST_STARS - 1)
    return np.array([0.0] * len(ACTIONS) + [np.log(share / (1 - share))], dtype=np.float32)
