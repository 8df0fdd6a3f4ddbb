"""What a `score` section may say."""

from typing import Any

import pytest

from raymtl.config.load import config_from_dict, config_hash, dump_config, load_config
from raymtl.config.roles import run_fields
from raymtl.errors import ConfigError
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
    ({"explored": {"propensity": "age", "shown": "s"}}, "a column of a feature"),
])  # fmt: skip
def test_a_wrong_score_is_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**more)
    assert said in str(error.value)


def test_a_power_of_a_number_of_any_sign_is_refused() -> None:
    tasks = {"click": {}, "profit": {"kind": "real"}, "spend": {"kind": "real", "transform": "log1p"}}
    config(tasks, gain={"profit": 1}, formulas={"v": {"type": "product", "powers": {"spend": 1}}})
    with pytest.raises(ConfigError, match=r"raises `profit` to a power, but a `real` task may predict numbers below 0"):
        config(tasks, gain={"profit": 1}, formulas={"v": {"type": "product", "powers": {"profit": 1}}})


def test_gain_needs_lists() -> None:
    raw = config().model_dump(mode="json")
    raw["data"]["group"] = None
    with pytest.raises(ConfigError, match=r"set data.request, data.impressions or data.group"):
        config_from_dict(raw)


def test_an_output_of_the_coupler_may_be_named() -> None:
    config(model={"preset": "esmm"}, formulas={"v": {"type": "sum", "weights": {"cvr": 1}}})
