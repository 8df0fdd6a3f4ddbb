"""The search space: what a draw means, and what is refused before anything runs."""

from typing import Any

import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.tuning.check import check
from raymtl.tuning.space import RATIO, Space
from tests.helpers.small_config import small_raw


def searched(tune: dict[str, Any], **sections: Any) -> Config:
    raw = {**small_raw(), **sections, "tune": tune}
    raw["data"] = {**raw["data"], "eval": {"start": "2026-01-04", "end": "2026-01-04"}}
    return config_from_dict(raw)


def test_a_draw_sets_its_fields_and_nothing_else() -> None:
    config = searched({"space": {"train.dense_optimizer.lr": {"log_uniform": [0.001, 0.1]}}})
    made = Space(config).config({"train.dense_optimizer.lr": 0.05})
    assert made.train.dense_optimizer.lr == 0.05
    same = {
        "train": made.train.model_copy(update={"dense_optimizer": config.train.dense_optimizer}),
        "tune": config.tune,
    }
    assert made.model_copy(update=same) == config


def test_loss_weights_keep_their_ratio_and_geometric_mean() -> None:
    """Ratios 4 to the first task and a geometric mean of sqrt(2 · 1) as before: w² · 4 = 2."""
    config = searched({"presets": ["loss_weights"]}, tasks={"click": {"weight": 2.0}, "buy": {"parent": "click"}})
    made = Space(config).config({f"{RATIO}buy": 4.0})
    click, buy = (made.tasks[t].weight for t in ("click", "buy"))
    assert buy / click == pytest.approx(4.0)
    assert click * buy == pytest.approx(2.0)


def test_the_default_is_a_draw_where_the_space_holds_it() -> None:
    inside = Space(searched({"presets": ["loss_weights", "learning_rates", "trunk", "alpha", "embedding_dims"]}))
    params = inside.default()
    assert params is not None
    assert params[f"{RATIO}buy"] == 1.0
    assert inside.config(params) == inside.config({})
    whole = Space(searched({"space": {"tasks.buy.weight": {"choice": [1, 2]}}}))
    assert whole.default() == {"tasks.buy.weight": "1"}, "1 and 1.0 are the same weight"
    outside = Space(searched({"space": {"train.dense_optimizer.lr": {"choice": [0.5]}}}))
    assert outside.default() is None


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("tasks.buy.weight", {"log_uniform": [0.5, 2]}, "0.5 to 2"),
        ("tasks.buy.weight", {"uniform": [0, 1]}, "0 to 1"),
        ("train.dense_optimizer.lr", {"log_uniform": [1e-5, 0.1]}, "1e-05 to 0.1"),
        ("train.batch_size", {"integer": [64, 4096]}, "64 to 4,096"),
        ("train.batch_size", {"log_integer": [1, 2000000]}, "1 to 2,000,000"),
        ("tasks.buy.weight", {"choice": [1, 2.5]}, "one of [1, 2.5]"),
        ("model.trunk.hidden", {"choice": [[8], [16, 8]]}, "one of [[8], [16, 8]]"),
    ],
)
def test_a_dimension_in_words(field: str, values: dict[str, Any], said: str) -> None:
    assert [dimension.values for dimension in Space(searched({"space": {field: values}})).dimensions] == [said]


def test_whole_sections_and_lists_can_be_chosen() -> None:
    space = Space(searched({"space": {"model.trunk.hidden": {"choice": [[8], [16, 8]]}}}))
    texts = space.dimensions[0].distribution.choices  # type: ignore[attr-defined]
    assert space.config({"model.trunk.hidden": texts[1]}).model.trunk.hidden == [16, 8]  # type: ignore[union-attr]


def test_a_condition_leaves_a_dimension_out() -> None:
    space = Space(
        searched(
            {
                "space": {
                    "model.trunk.experts": {"choice": [2, 8], "when": {"model.trunk.type": ["mmoe"]}},
                    "model.trunk.type": {"choice": ["mmoe", "shared_bottom"]},
                }
            }
        )
    )
    assert [dimension.name for dimension in space.dimensions] == ["model.trunk.type", "model.trunk.experts"]
    experts = space.dimensions[1]
    assert space.active(experts, {"model.trunk.type": '"mmoe"'})
    assert not space.active(experts, {"model.trunk.type": '"shared_bottom"'})
    made = space.config({"model.trunk.type": '"mmoe"', "model.trunk.experts": "8"})
    assert made.model.trunk.experts == 8  # type: ignore[union-attr]


def test_alpha_is_searched_only_where_the_coupler_is_aits() -> None:
    tune = {"space": {"model.coupler.type": {"choice": ["ait", "product"]}}, "presets": ["alpha"]}
    space = Space(searched(tune))
    alpha = next(dimension for dimension in space.dimensions if dimension.name == "model.order_loss.alpha")
    assert space.active(alpha, {"model.coupler.type": '"ait"'})
    assert not space.active(alpha, {"model.coupler.type": '"product"'})


def test_a_grid_has_every_combination_once() -> None:
    space = Space(
        searched(
            {
                "sampler": {"type": "grid"},
                "space": {
                    "model.trunk.type": {"choice": ["mmoe", "shared_bottom"]},
                    "model.trunk.experts": {"choice": [2, 8], "when": {"model.trunk.type": "mmoe"}},
                },
            }
        )
    )
    assert len(space.grid()) == 3


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        (
            {"space": {"train.dense_optimiser.lr": {"choice": [1]}}},
            "no key `dense_optimiser`; did you mean `dense_optimizer`?",
        ),
        (
            {"space": {"model.trunk.experts": {"choice": [1]}}},
            r"`model.trunk` \(of `shared_bottom`\) has no key `experts`",
        ),
        ({"space": {"tasks.clik.weight": {"choice": [1]}}}, "no key `clik`; did you mean `click`?"),
        (
            {"space": {"train.batch_size": {"choice": ["big"]}}},
            "train.batch_size is the text `big`; expected a whole number",
        ),
        ({"space": {"train.batch_size": {"uniform": [10, 20.5]}}}, "train.batch_size is 20.5"),
        ({"space": {"train.dense_optimizer.lr": {"uniform": [-1, 1]}}}, "expected a number > 0"),
        (
            {"space": {"train.dense_optimizer.lr": {"log_uniform": [0, 1]}}},
            "log_uniform begins at 0.0; it must be above 0",
        ),
        ({"space": {"train.dense_optimizer.lr": {"uniform": [2, 1]}}}, "the first number must be below the second"),
        ({"space": {"train.dense_optimizer.lr": {}}}, "give exactly one of `choice`"),
        ({"space": {"data.path": {"choice": ["a"]}}}, "all trials read the same rows"),
        ({"space": {"tasks.buy.parent": {"choice": ["a"]}}}, "search one of tasks.<task>.\\{weight"),
        ({"space": {"train.seed": {"choice": [1]}}}, "cannot be searched"),
        ({"space": {"train.batch_size": {"uniform": [32, 64]}}}, "expected a whole number"),
        ({"space": {"tasks.click": {"choice": [{"label": "buy"}]}}}, "search one of tasks.<task>.\\{weight"),
        ({"space": {"train": {"choice": [{"seed": 3}]}}}, "cannot be searched"),
        ({"presets": ["loss_weights"], "structure_trials": 5}, "contains only loss weights and coupler options"),
        ({"presets": ["trunk"], "start": {"store": "/v"}}, "changes the shape of the model"),
        ({}, "neither `space` nor `presets`"),
        ({"presets": ["weights"]}, "expected one of `loss_weights`"),
        ({"presets": ["alpha"], "objective": "buy.acu"}, "did you mean `auc`?"),
        ({"presets": ["alpha"], "objective": "by.auc"}, "did you mean `buy.auc`?"),
        ({"presets": ["alpha"], "objective": {"pareto": ["buy.auc", "clik.auc"]}}, "did you mean `click.auc`?"),
        ({"presets": ["alpha"], "objective": "loss"}, "the training loss changes with the weights"),
        (
            {"presets": ["alpha"], "objective": {"metric": "buy.auc", "subject_to": {"click.auc": {}}}},
            "set exactly one of `max_drop`",
        ),
        (
            {
                "presets": ["alpha"],
                "objective": {"pareto": ["buy.auc", "click.auc"]},
                "stopping": {"type": "asha", "first_rung_rows": 5},
            },
            "tune.stopping.by is missing",
        ),
        (
            {"space": {"train.dense_optimizer.lr": {"uniform": [1, 2]}}, "sampler": {"type": "grid"}},
            "is a range; give it a `choice`",
        ),
    ],
)
def test_mistakes_are_named_with_the_nearest_right_word(tune: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(searched(tune))


def test_alpha_needs_a_funnel_that_the_coupler_does_not_keep() -> None:
    with pytest.raises(ConfigError, match="no task has a `parent`"):
        Space(searched({"presets": ["alpha"]}, tasks={"click": {}, "buy": {}}))
    with pytest.raises(ConfigError, match="keep the funnel's order by themselves"):
        Space(searched({"presets": ["alpha"]}, model={"preset": "esmm"}))


def test_weights_of_one_task_are_no_space() -> None:
    with pytest.raises(ConfigError, match="`click` is the only task"):
        Space(searched({"presets": ["loss_weights"]}, tasks={"click": {}}))
    with pytest.raises(ConfigError, match="keep one of them"):
        Space(searched({"presets": ["loss_weights"], "space": {"tasks.buy.weight": {"choice": [1]}}}))


def test_a_range_over_values_that_are_not_all_valid_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tables\.user\.dim is 9; expected a multiple of 4"):
        Space(searched({"space": {"tables.user.dim": {"integer": [8, 32]}}}))
    presets = Space(searched({"presets": ["embedding_dims"]}, table_defaults={"dim": 12}))
    assert [d.choices for d in presets.dimensions] == [(4, 12, 24)]
