"""Every field says its role, and the lists that follow from the roles."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from raymtl.config.base import Section
from raymtl.config.data import DayRange
from raymtl.config.load import config_from_dict, config_hash
from raymtl.config.roles import (
    PURPOSES,
    NotSearched,
    Role,
    day_fields,
    field_roles,
    groups,
    is_group,
    not_searched,
    own_role,
    path_fields,
    read_fields,
    roles_at,
    run_fields,
    search_fields,
)
from raymtl.config.root import Config
from raymtl.config.schema import field_type, sections
from raymtl.config.tune import Bound, Dimension
from tests.helpers.small_config import small_raw


def problems(root: type[Section]) -> list[str]:
    """Fields of the groups that do not say exactly one purpose, and holders of groups that say one beside their fields'."""
    found = []
    for at in sections(root):
        for key in at.section.model_fields:
            if not is_group(at.section):
                continue
            purposes = sum(purpose in own_role(at.section, key) for purpose in PURPOSES)
            if purposes != (0 if groups(field_type(at.section, key)) else 1):
                found.append(f"{at.path}.{key} ({at.section.__name__}) says {purposes} purposes")
    return found


def test_every_field_says_its_role() -> None:
    assert problems(Config) == [], "say what the field decides: `Annotated[<type>, Role.…]` (raymtl/config/roles.py)"


def test_only_these_sections_are_one_value_whose_holder_says_the_role() -> None:
    assert {at.section for at in sections(Config) if not is_group(at.section)} == {DayRange, Dimension, Bound}


class Inner(Section):
    """A group."""

    steps: Annotated[int, Role.LEARNING] = 1


class Chosen(Section):
    """One of a choice."""

    type: Annotated[Literal["chosen"], Role.LEARNING] = "chosen"
    forgotten: int = 1


class Other(Section):
    """The other of a choice."""

    type: Annotated[Literal["other"], Role.LEARNING] = "other"


class Outer(Section):
    """A field without a role at each place where one may be forgotten."""

    inner: Inner = Inner()
    named: dict[str, Inner] = {}
    said_twice: Annotated[Inner, Role.EXECUTION] = Inner()
    two: Annotated[int, Role.EXECUTION, Role.LEARNING] = 1
    beside: Annotated[int, Role.READ] = 1
    forgotten: Annotated[int | None, Field(ge=0)] = None
    chosen: Annotated[Chosen | Other, Field(discriminator="type")] = Other()
    days: DayRange | None = None


def test_a_field_without_a_role_is_found() -> None:
    assert [problem.split()[0].lstrip(".") for problem in problems(Outer)] == [
        "said_twice", "two", "beside", "forgotten", "days", "chosen.forgotten",
    ]  # fmt: skip


def test_paths_are_known() -> None:
    """`config_from_dict` makes them absolute key by key."""
    assert set(path_fields(Config)) == {
        "output", "data.path", "data.eval_path", "daily.store", "tune.start.store",
        "tables.<name>.vectors.path", "tables.<name>.vocabulary.path",
    }  # fmt: skip


def changed(path: str, value: object) -> tuple[Config, Config]:
    """The small configuration with all its sections, and the same with one field changed."""
    pair = []
    for new in (False, True):
        raw = {**small_raw(), "daily": {"store": "/s", "replay": {"share": 0.1}}, "train": {}, "tune": {"start": {}}}
        raw["tune"]["space"] = {"tasks.buy.weight": {"choice": [1, 2]}}
        raw["tables"]["user"]["id_space"] = "map"
        raw["data"] |= {"group": "user", "eval": {"start": "2026-01-04", "end": "2026-01-04"}}
        inner = raw
        *above, last = path.split(".")
        for key in above if new else ():
            inner = inner.setdefault(key, {})
        if new:
            inner[last] = value
        pair.append(config_from_dict(raw))
    return pair[0], pair[1]


# Written by hand, for the roles to be held against
@pytest.mark.parametrize(
    ("path", "value", "counts"),
    [
        ("name", "other", "run search"),
        ("output", "/other", ""),
        ("data.path", "/other", "hash read"),
        ("data.train", {"start": "2026-01-02", "end": "2026-01-02"}, "hash run search read"),
        ("data.read_tasks", 3, "hash"),
        ("data.block_rows", 300, "hash read"),
        ("data.unit_rows", 300, "hash run day search read"),
        ("data.shuffle.seed", 3, "hash run day search"),
        ("features.user.column", "u", "hash run day search read"),
        ("features.user.side", "user", "read"),
        ("tables.user.dim", 8, "hash run day search"),
        ("tables.user.rows", 200, "hash run day search read"),
        ("tables.user.sharding", "row_wise", "hash"),
        ("table_defaults.sharding", "row_wise", "hash"),
        ("tasks.buy.weight", 2, "hash run day search"),
        ("tasks.buy.delay_days", 2, "hash run day search read"),
        ("model.towers.dropout", 0.5, "hash run day search"),
        ("model.input", {"type": "concat", "missing": "learned"}, "hash run day search read"),
        ("train.workers", 2, "hash"),
        ("train.placement.labels", {"a": "b"}, "hash"),
        ("train.checkpoint.keep", 5, "hash"),
        ("train.schedule.warmup_steps", 5, "hash run day search"),
        ("train.early_stop", {"patience": 2}, "hash run search"),
        ("daily.store", "/other", "hash run search"),
        ("daily.skip", ["2026-01-02"], "hash run search"),
        ("daily.gate.holdout", 0.1, "hash run day search"),
        ("daily.gate.auc_drop", 0.1, "hash run search"),
        ("daily.bounds", None, "hash run search"),
        ("daily.replay", None, "hash run day search"),
        ("daily.schedule.warmup_steps", 5, "hash run day search"),
        ("tune.max_trials", 5, ""),
        ("tune.gpus_per_trial", 0.5, ""),
        ("tune.seed", 5, "search"),
        ("tune.start.version", "v", "search"),
    ],
)
def test_what_a_change_counts_for(path: str, value: object, counts: str) -> None:
    before, after = changed(path, value)
    lists = {"hash": config_hash, "run": run_fields, "day": day_fields, "search": search_fields, "read": read_fields}
    assert [name for name, of in lists.items() if of(before) != of(after)] == counts.split()


def test_the_first_key_that_differs_is_told_by_its_path() -> None:
    before, after = changed("model.trunk.hidden", [8])
    assert {key for key in run_fields(after) if run_fields(after)[key] != run_fields(before)[key]} == {
        "model.trunk.hidden"
    }


def test_roles_at_a_path() -> None:
    assert roles_at(Config, "tables.user.dim") == [Role.MODEL]
    assert roles_at(Config, "model.trunk.options.depth") == [Role.MODEL]  # of the field that holds it
    assert set(roles_at(Config, "model.order_loss")) == {Role.LEARNING | Role.COUPLING}
    assert roles_at(Config, "nothing.here") == []
    assert Role.PATH in field_roles(Config)["tune.start.store"]


@pytest.mark.parametrize(
    "path", ["data", "data.unit_rows", "train.seed", "train", "tasks.buy.label", "tasks.buy", "tune.seed"]
)
def test_not_searched(path: str) -> None:
    assert not_searched(Config, path)


@pytest.mark.parametrize("path", ["tasks.buy.weight", "train.batch_size", "model", "tables.user.dim", "training"])
def test_searched(path: str) -> None:
    assert not_searched(Config, path) is None


def test_the_reason_against_a_search_is_the_fields_own() -> None:
    class One(Section):
        """A field."""

        a: Annotated[int, Role.LEARNING, NotSearched("it is held fast")] = 1

    assert not_searched(One, "a") == "it is held fast"
