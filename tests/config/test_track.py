"""`train.track`: on only if somebody says so in a way that has one meaning."""

import pytest

from raymtl.config.load import config_from_dict, dump_config, load_config
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from tests.helpers.small_data import make_config


def tracked(value: object) -> Config:
    raw = make_config().model_dump(mode="json")
    raw["train"]["track"] = value
    return config_from_dict(raw)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ([], []),
        ({}, []),
        (["mlflow"], ["mlflow"]),
        ({"wandb": {}}, ["wandb"]),
        (["wandb", "mlflow"], ["mlflow", "wandb"]),
    ],
)
def test_what_is_named_is_on_and_stays_so_in_a_stored_configuration(value: object, names: list[str]) -> None:
    config = tracked(value)
    assert config.train.track.names == names
    assert load_config(None, text=dump_config(config)) == config


def test_null_is_refused_since_it_has_two_meanings() -> None:
    with pytest.raises(
        ConfigError, match=r"train.track.mlflow is null, .*; write `mlflow: \{\}` for the defaults, or leave"
    ):
        tracked({"mlflow": None})


def test_a_text_names_the_list() -> None:
    with pytest.raises(ConfigError, match=r"train.track: a single text is no list of trackers; write `\[mlflow\]`"):
        tracked("mlflow")
