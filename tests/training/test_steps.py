"""The batch size of a run that sets none, and what is said of too few steps."""

import json
from pathlib import Path

import pytest

from raymtl.config.load import config_from_dict, dump_config
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.training import driver
from raymtl.training.steps import steps_line, too_few_steps, with_batch_size
from tests.helpers.small_data import click_rows, make_config, write_file

# rows of an epoch, epochs, batch size
SIZES = [
    (1, 1, 256),
    (10_000, 1, 256),
    (153_599, 1, 256),
    (153_600, 1, 512),
    (51_200, 3, 512),
    (1_000_000, 1, 2048),
    (2_457_600, 1, 8192),
    (1_000_000_000, 1, 8192),
]


def with_train(config: Config, **train: object) -> Config:
    raw = config.model_dump(mode="json")
    return config_from_dict({**raw, "train": {**raw["train"], **train}})


@pytest.mark.parametrize(("rows", "epochs", "size"), SIZES)
def test_the_batch_grows_with_the_rows(rows: int, epochs: int, size: int) -> None:
    assert with_batch_size(with_train(make_config(), epochs=epochs), rows).train.rows_per_step == size
    assert with_batch_size(with_train(make_config(), batch_size=777), rows).train.rows_per_step == 777


def test_every_worker_gets_a_row() -> None:
    assert with_batch_size(with_train(make_config(), workers=300), 1000).train.rows_per_step == 300


def test_too_few_steps_are_said_with_what_to_change() -> None:
    config = with_train(make_config(), batch_size=2048)
    assert steps_line(config, 47_827, 24) == "47,827 training rows: 24 steps of 2,048 rows"
    assert too_few_steps(config, 24) == (
        "24 steps are too few to learn much (fewer than 50): lower train.batch_size (2048), raise train.epochs (1), or add "
        "training days"
    )
    assert too_few_steps(config, 50) is None
    smallest = with_batch_size(with_train(make_config(), epochs=2), 5_000)
    assert steps_line(smallest, 5_000, 40) == "5,000 training rows in 2 epochs: 40 steps of 256 rows"
    said = too_few_steps(smallest, 40)
    assert said is not None
    assert "batch_size" not in said


def planned(root: Path, rows: int = 2000, **train: object) -> driver.RunPlan:
    write_file(root / "logs", click_rows(rows))
    config = with_train(make_config(path=str(root / "logs")), **train)
    return driver.prepare(config.model_copy(update={"output": str(root), "name": "run"}))


def finish(root: Path, ready: driver.RunPlan) -> None:
    """Leave what a finished run does."""
    (root / "run").mkdir(exist_ok=True)
    (root / "run/config.yaml").write_text(dump_config(ready.config))
    (root / "run/result.json").write_text(json.dumps({"status": "finished"}))


def test_a_run_keeps_its_batch_size(tmp_path: Path) -> None:
    first = planned(tmp_path)
    assert (first.facts()["batch_size"], first.facts()["steps"]) == (256, 8)
    finish(tmp_path, planned(tmp_path, batch_size=100))
    assert planned(tmp_path).config.train.batch_size == 100
    with pytest.raises(ConfigError, match=r"train.batch_size was 100 and is now 256"):
        planned(tmp_path, batch_size=256)
    with pytest.raises(ConfigError, match=r"train.epochs was 1 and is now 2; set another `name`"):
        planned(tmp_path, epochs=2)
