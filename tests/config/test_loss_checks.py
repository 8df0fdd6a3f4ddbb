"""What the losses of a task may be, and how a wrong one is named."""

import pytest

from raymtl.config.roles import Role, read_fields, roles_at
from raymtl.config.root import Config
from raymtl.config.wiring import compared_lists
from raymtl.errors import ConfigError
from tests.helpers.small_config import small

REQUEST = "data.request=r"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["tasks.click.losses.ranket={}"], r"tasks.click.losses.ranket is an unknown key; did you mean `ranknet`\?"),
        (
            ["tasks.click.losses.own=null"],
            "tasks.click.losses has no loss, so nothing learns the level of the predictions",
        ),
        (
            [REQUEST, "tasks.click.losses={own: null, listwise: {}, ranknet: {}}"],
            "has only `ranknet`, `listwise`, so nothing learns the level of the predictions; add `own`, with a small weight",
        ),
        (
            ["tasks.click.losses.ranknet={}"],
            r"ranknet.within is `request`, but data.request is not set; set it or data.impr",
        ),
        (
            ["tasks.click.losses.listwise.within=group"],
            "within is `group`, but data.group is not set; set it, or remove the loss",
        ),
        (
            ["tasks.n={kind: count, losses: {focal: {}}}"],
            "tasks.n.losses.focal is set, but the task is `count`; remove it",
        ),
        (
            ["tasks.n={kind: count, losses: {own: {smoothing: 0.1}}}"],
            "smoothing is 0.1, but the task is `count`; set it to 0",
        ),
        (
            [REQUEST, "tasks.n={kind: real, losses: {ranknet: {}}}"],
            "the logits of a `real` task have no scale or no order; remove it, or use `binary`",
        ),
        (
            ["data.weight=w", "tasks.click.weight_column=w"],
            "tasks.click.weight_column is `w`, the column of data.weight",
        ),
        (["tasks.click.losses.own.smoothing=1"], "expected a number ≥ 0 and < 1"),
    ],
)
def test_a_wrong_loss_is_named_with_the_remedy(overrides: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        small(*overrides)


def test_one_override_adds_a_loss_to_that_of_the_kind() -> None:
    config = small(REQUEST, "tasks.click.losses.ranknet.weight=0.5", "tasks.buy.losses={own: null, focal: {gamma: 1}}")
    assert list(config.tasks["click"].losses.chosen()) == ["own", "ranknet"]
    assert list(config.tasks["buy"].losses.chosen()) == ["focal"]
    assert compared_lists(config.tasks) == [("click", "request")]
    assert config.list_columns() == ["request"]


def test_a_task_that_is_not_trained_needs_no_lists() -> None:
    config = small(REQUEST, "tasks.click.losses.ranknet={}", "tasks_subset=[buy]")
    assert config.list_columns() == []


def test_what_reading_makes_of_the_logs_depends_on_lists_and_weights_alone() -> None:
    def read(*overrides: str) -> object:
        return read_fields(small(REQUEST, "data.group=g", *overrides))

    ranked = read("tasks.click.losses.ranknet={}")
    assert read() != ranked != read("tasks.click.losses.ranknet.within=group")
    assert ranked == read("tasks.click.losses.ranknet={weight: 3, window: 5}")
    assert read() == read("tasks.click.losses.focal={}")
    assert read() != read("tasks.click.weight_column=w")
    assert all(Role.COUPLING in role for role in roles_at(Config, "tasks.click.losses.ranknet.weight"))
