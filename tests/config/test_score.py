"""What a `score` section may say."""

from typing import Any

import pytest

import raymtl.models.ranker  # noqa: F401 -- registers the slots
from raymtl.config.load import config_from_dict, config_hash, dump_config, load_config
from raymtl.config.roles import run_fields
from raymtl.config.wiring import predictions
from raymtl.errors import ConfigError
from raymtl.models.registry import find, options_of
from raymtl.objectives.outputs import Outputs
from tests.helpers.small_config import small_raw

SCORE: dict[str, Any] = {
    "formulas": {"value": {"type": "product", "powers": {"click": 1, "buy": 0.5}}},
    "gain": {"click": 1, "buy": 20},
}


def config(tasks: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **score: Any) -> Any:
    raw = small_raw()
    raw["data"] |= {"group": "user"}
    raw["tasks"] = tasks or {"click": {}, "buy": {"parent": "click"}}
    raw["model"] = model or {"preset": "mmoe"}
    return config_from_dict(raw | {"score": {**SCORE, **score}})


def test_a_score_is_no_part_of_a_run() -> None:
    plain = config_from_dict({k: v for k, v in config().model_dump(mode="json").items() if k != "score"})
    assert (config_hash(config()), run_fields(config())) == (config_hash(plain), run_fields(plain))
    assert load_config(None, text=dump_config(config())) == config()


@pytest.mark.parametrize(("more", "said"), [
    ({"formulas": {"v": {"type": "sum", "weights": {"buyy": 1}}}}, "score.formulas.v names `buyy`, which is not one of"),
    ({"formulas": {"v": {"type": "sum", "weights": {"buy": 0}}}}, "has only zeros, so all rows have one score"),
    ({"formulas": {"v": {"type": "sum", "powers": {"buy": 1}}}}, "score.formulas.v.powers is an unknown key of `sum`"),
    ({"formulas": {"v": {"type": "buckets", "by": "click", "edges": [0.2, 0.1], "then": "buy"}}}, "in ascending order"),
    ({"formulas": {}}, "score.formulas"),
    ({"gain": {"purchase": 1}}, "score.gain names `purchase`"),
    ({"gain": {"click": 0}}, "score.gain has only zeros"),
    ({"gain": {}, "explored": {"propensity": "p", "shown": "s"}}, "score.gain is empty"),
    ({"gain": {}, "at": 5}, "score.at is 5, but score.gain is empty"),
    ({"explored": {"propensity": "age", "shown": "s"}}, "a column of a feature"),
])  # fmt: skip
def test_a_wrong_score_is_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**more)
    assert said in str(error.value)


def test_a_power_of_a_number_of_any_sign_is_refused() -> None:
    tasks = {"click": {}, "profit": {"kind": "real"}, "spend": {"kind": "real", "transform": "log1p"}}
    config(tasks, gain={"profit": 1}, formulas={"v": {"type": "product", "powers": {"spend": 1}}})
    with pytest.raises(
        ConfigError, match=r"raises `profit` to a power, but a `real` task .* or set tasks.profit.transform"
    ):
        config(tasks, gain={"profit": 1}, formulas={"v": {"type": "product", "powers": {"profit": 1}}})
    tasks["p"] = {"kind": "quantile", "quantiles": [0.1, 0.5]}
    config(tasks, gain={"p": 1}, formulas={"v": {"type": "sum", "weights": {"p_q10": 1}}})
    for output in ("p", "p_q10"):
        with pytest.raises(ConfigError, match=rf"raises `{output}` to a power, but a `quantile` task .* type `sum`$"):
            config(tasks, gain={"p": 1}, formulas={"v": {"type": "product", "powers": {"click": 1, output: 1}}})


def test_the_number_of_a_class_is_no_amount() -> None:
    tasks = {
        "click": {},
        "cat": {"kind": "multiclass", "classes": ["a", "b", "c"]},
        "stars": {"kind": "ordinal", "classes": 3},
    }
    config(tasks, gain={"stars": 1}, formulas={"v": {"type": "product", "powers": {"cat_b": 1, "stars": 1}}})
    for formula in (
        {"type": "sum", "weights": {"click": 1, "cat": 1}},
        {"type": "product", "powers": {"click": 1, "cat": 1}},
        {"type": "buckets", "by": "cat", "edges": [1], "then": "click"},
    ):
        with pytest.raises(ConfigError, match=r"names `cat`, whose prediction .* `cat_a`, `cat_b`, `cat_c`$"):
            config(tasks, gain={}, formulas={"v": formula})
    with pytest.raises(ConfigError, match=r"score.gain names `cat`, whose label is the number of a class"):
        config(tasks, gain={"cat": 1}, formulas={"v": {"type": "sum", "weights": {"click": 1}}})


def test_gain_needs_complete_lists_without_sampling() -> None:
    raw = config().model_dump(mode="json")
    raw["data"] |= {"sampling": {"task": "click", "rate": 0.1}, "request": "request"}
    with pytest.raises(
        ConfigError, match=r"measured in complete lists, but data.sampling says that rows were dropped"
    ) as error:
        config_from_dict(raw)
    assert "data.request" not in str(error.value)
    config_from_dict(raw | {"score": raw["score"] | {"gain": {}}})


def test_the_condition_of_a_gain_must_be_trained() -> None:
    raw = config({"click": {}, "cart": {"given": "click"}, "buy": {"given": "cart"}}).model_dump(mode="json")
    assert config_from_dict(raw).score is not None
    raw |= {"score": {"formulas": {"v": {"type": "sum", "weights": {"buy": 1}}}, "gain": {"buy": 1}}}
    with pytest.raises(ConfigError, match=r"its condition `click` did not happen, but tasks_subset leaves `click` out"):
        config_from_dict(raw | {"tasks_subset": ["cart", "buy"]})


def test_gain_needs_lists() -> None:
    raw = config().model_dump(mode="json")
    raw["data"]["group"] = None
    with pytest.raises(ConfigError, match=r"set data.request, data.impressions or data.group"):
        config_from_dict(raw)


def test_an_output_of_the_coupler_may_be_named() -> None:
    config(model={"preset": "esmm"}, formulas={"v": {"type": "sum", "weights": {"cvr": 1}}})
    with pytest.raises(
        ConfigError, match=r"names `cvrr`, which is not one of the outputs `click`, `buy`, `cvr`; did you mean"
    ):
        config(model={"preset": "esmm"}, formulas={"v": {"type": "sum", "weights": {"cvrr": 1}}})


@pytest.mark.parametrize(("model", "tasks"), [
    ({"preset": "esmm"}, {"click": {}, "buy": {"parent": "click"}}),
    ({"preset": "esmm"}, {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "cart"}}),
    ({"preset": "esm2"}, {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "click"}}),
    ({"preset": "mmoe"}, {"a": {"kind": "multiclass", "classes": ["x", "y"]}, "q": {"kind": "quantile", "quantiles": [0.25]},
                          "z": {"kind": "ziln"}, "s": {"kind": "ordinal", "classes": 3}}),
])  # fmt: skip
def test_the_outputs_that_a_formula_may_name_are_those_of_the_model(
    model: dict[str, Any], tasks: dict[str, Any]
) -> None:
    formula = {"type": "sum", "weights": {list(tasks)[-1]: 1}}
    settings = config(tasks, model, formulas={"v": formula}, gain={})
    coupler = settings.model.coupler
    derived = find("coupler", coupler).derived(settings.active_tasks(), options_of(coupler))
    names = Outputs(settings.active_tasks(), derived).names
    assert [*predictions(settings.active_tasks(), settings._derived_outputs() or {})] == names
    config(tasks, model, formulas={"v": {"type": "sum", "weights": dict.fromkeys(set(names) - {"a"}, 1)}}, gain={})
    with pytest.raises(ConfigError, match=r"names `wrong`, which is not one of the outputs"):
        config(tasks, model, formulas={"v": {"type": "sum", "weights": {"wrong": 1}}}, gain={})


def test_a_task_may_not_have_the_name_of_an_output_of_the_coupler() -> None:
    tasks = {"click": {}, "buy": {"parent": "click"}, "cvr": {}, "buy_given_click": {}}
    with pytest.raises(ConfigError, match=r"tasks.buy_given_click has the name of an output of model.coupler"):
        config(tasks, {"preset": "esmm"})
