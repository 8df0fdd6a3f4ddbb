"""Where labels may be early, and how a wrong setting is named."""

import pytest

from raymtl.config.roles import not_searched
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from tests.helpers.small_config import small

DAILY = ["data.group=user", "daily.store=/store"]
EARLY = ["tasks.buy.delay_days=3", "tasks.buy.early_labels.time=bought_at"]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            EARLY[1:],
            "early_labels is set, but delay_days is 0, so the labels are final on their own day; set tasks.buy.delay_days",
        ),
        ([EARLY[0], "tasks.buy.early_labels={}"], "tasks.buy.early_labels.time"),
        (
            ["tasks.n={kind: count, delay_days: 1, early_labels: {time: t}}"],
            "tasks.n.early_labels is set, but the task is `count`; remove it",
        ),
        (
            [*EARLY, "tasks.buy.early_labels.cutoff_hours=96"],
            r"cutoff_hours is 96, when the labels are final \(delay_days is 3\); set it below 96",
        ),
        ([*EARLY, "tasks.buy.early_labels.cutoff_hours=0"], "cutoff_hours is 0; expected a number > 0"),
        (
            [*EARLY, "tasks.click.delay_days=1", "model={preset: esmm}"],
            "tasks.buy.early_labels is set, but its labels need those of `click`, which are final after 1 day; remove",
        ),
        (
            ["tasks.buy={given: click}", *EARLY, "tasks.click.delay_days=2"],
            "need those of `click`, which are final after 2 days; remove early_labels, or tasks.click.delay_days",
        ),
        (
            [*EARLY, "tasks.buy.losses.focal={}"],
            "tasks.buy.losses.focal, which needs final labels; remove one",
        ),
        (
            [*EARLY, "data.sampling={task: buy, rate: 0.1}"],
            "data.sampling.task is `buy`: a negative that was dropped cannot",
        ),
        (
            [*EARLY, "model={preset: esmm, conversion_loss: {weight: 1.0}}"],
            "model.conversion_loss learns `buy` too, from labels as they are",
        ),
        (
            [*EARLY, "tasks.buy.early_labels.time=buy"],
            "time is `buy`, the column of tasks.buy.label; set it to the one with the",
        ),
        ([*EARLY, "data.timestamp=bought_at"], "time is `bought_at`, the column of data.timestamp"),
        (
            [*EARLY, *DAILY, "daily.bootstrap_days=3"],
            r"the first version trains on 3 days \(daily.bootstrap_days\), of which none has final labels.* set it to at least 4",
        ),
        (
            [*EARLY, *DAILY, "daily.dense_lr_factor=0"],
            "daily.dense_lr_factor is 0, so the head that knows how many labels are in time",
        ),
        ([*EARLY, "features.bought_at={kind: dense}"], "time is `bought_at`, a column of a feature, but a time tells"),
        ([*EARLY, "tasks.buy.early_labels.correction=fnw"], "tasks.buy.early_labels.correction is an unknown key"),
    ],
)
def test_problems(overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        small(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        EARLY,
        [*EARLY, "tasks.buy.losses.own={weight: 0.5, smoothing: 0.1}"],
        [*EARLY, "tasks.click.delay_days=1"],  # whose labels the buy does not use
        [*EARLY, "model={preset: esmm}"],
        [*EARLY, *DAILY, "daily.bootstrap_days=4"],
        [*EARLY, "data.sampling={task: click, rate: 0.1}"],
        [*EARLY, "tasks.buy.early_labels.cutoff_hours=32"],
    ],
)
def test_what_fits(overrides: list[str]) -> None:
    assert list(small(*overrides).early_tasks()) == ["buy"]


def test_early_tasks_are_those_that_are_trained() -> None:
    assert small(*EARLY, "tasks_subset=[click]").early_tasks() == {}


def test_no_search_changes_them() -> None:
    for key in ("time", "cutoff_hours"):
        assert not_searched(Config, f"tasks.buy.early_labels.{key}") == "no trial is a day of `raymtl daily`"
