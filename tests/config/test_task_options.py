"""The options of task kinds: what is refused, where, and what the columns of predictions are called."""

from typing import Any

import pytest

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.objectives.outputs import Outputs
from tests.helpers.small_config import small_raw


def with_task(**task: Any) -> Config:
    raw = small_raw()
    raw["tasks"]["extra"] = task
    return config_from_dict(raw)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kind": "multiclass"}, "tasks.extra is `multiclass` but has no `classes`; set tasks.extra.classes to their number"),
        ({"kind": "multiclass", "classes": 1}, "tasks.extra.classes has 1; the kind `multiclass` needs 2 or more"),
        ({"kind": "ordinal", "classes": ["low", "high"]}, "tasks.extra.classes has 2; the kind `ordinal` needs 3 or more"),
        ({"kind": "multiclass", "classes": ["a", "b", "a"]}, "tasks.extra.classes has `a` 2 times; list it once"),
        ({"kind": "multiclass", "classes": [True, "b"]}, "true is a boolean; write text in quotes"),
        ({"kind": "multiclass", "classes": 300}, "tasks.extra.classes"),
        (
            {"kind": "multiclass", "classes": 3, "class_weights": [1, 2]},
            "tasks.extra.class_weights has 2 numbers for 3 classes; list one for each",
        ),
        ({"kind": "quantile"}, "tasks.extra is `quantile` but has no `quantiles`; set tasks.extra.quantiles"),
        ({"kind": "quantile", "quantiles": [0.9, 0.1]}, "extra.quantiles is [0.9, 0.1]; list each once, in ascending order"),
        ({"kind": "quantile", "quantiles": [0.5, 1.0]}, "tasks.extra.quantiles"),
        ({"kind": "count", "classes": 3}, "but has `classes`; remove it, or set tasks.extra.kind to `multiclass`, `ordinal`"),
        ({"kind": "real", "quantiles": [0.5]}, "but has `quantiles`; remove it, or set tasks.extra.kind to `quantile`"),
        ({"kind": "ordinal", "classes": 3, "class_weights": [1, 1, 1]}, "set tasks.extra.kind to `multiclass`"),
        ({"kind": "ziln", "base_rate": 0.1}, "base_rate is 0.1, but the kind `ziln` starts from more than a mean label"),
        ({"kind": "multiclass", "classes": 3, "truth": "p"}, "extra.truth is `p`, but the kind `multiclass` is not measured"),
        ({"kind": "fraction", "base_rate": 1.5}, "a `fraction` task needs a value below 1"),
        ({"kind": "ziln", "transform": "log1p"}, "tasks.extra.transform is `log1p`; only a `real` task can be transformed"),
        ({"kind": "ziln", "parent": "click"}, "both ends of a funnel step must be `binary` tasks"),
    ],
)  # fmt: skip
def test_mistakes_are_named(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_task(**task)
    assert said in str(error.value)


def test_columns_of_predictions_have_different_names() -> None:
    raw = small_raw()
    raw["tasks"] |= {"spend": {"kind": "ziln"}, "spend_probability": {}}
    with pytest.raises(
        ConfigError, match=r"tasks.spend predicts `spend_probability`, which is also a task; rename one of"
    ):
        config_from_dict(raw)


def test_a_position_raises_no_class() -> None:
    raw = small_raw()
    raw["features"]["rank"] = {"kind": "bias"}
    raw["tables"]["rank"] = {"rows": 10}
    raw["tasks"]["device"] = {"kind": "multiclass", "classes": 3}
    raw["model"]["bias"] = {"type": "position", "tasks": ["click", "device"]}
    with pytest.raises(
        ConfigError, match=r"model.bias.tasks names `device`, but a `multiclass` task has no single logit"
    ):
        config_from_dict(raw)


def test_what_is_predicted_under_which_name() -> None:
    config = with_task(kind="quantile", quantiles=[0.025, 0.5])
    assert Outputs(config.active_tasks()).names == ["click", "buy", "extra", "extra_q2.5", "extra_q50"]
