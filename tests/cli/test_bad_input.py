"""What a user can get wrong ends in a sentence with the place and the remedy, an exit code, and no traceback."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymtl.cli.main import run_command
from tests.helpers.run_logs import DAYS, small_config, write_config, write_part

Raw = dict[str, Any]


def nothing(root: Path, raw: Raw) -> None:
    pass


def no_root(root: Path, raw: Raw) -> None:
    raw["data"]["path"] = str(root / "gone")


def no_partition(root: Path, raw: Raw) -> None:
    raw["data"]["train"]["end"] = "2026-01-09"


def empty_partition(root: Path, raw: Raw) -> None:
    shutil.rmtree(root / f"ds={DAYS[0]}")
    (root / f"ds={DAYS[0]}").mkdir()


def cut_footer(root: Path, raw: Raw) -> None:
    path = root / f"ds={DAYS[0]}" / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def empty_file(root: Path, raw: Raw) -> None:
    (root / f"ds={DAYS[0]}" / "part-0.parquet").write_bytes(b"")


def wrong_type(root: Path, raw: Raw) -> None:
    write_part(root, DAYS[0], "part-0.parquet", 50, seed=0, price=pa.array(["cheap"] * 50))


def other_schema(root: Path, raw: Raw) -> None:
    write_part(root, DAYS[0], "part-1.parquet", 50, seed=0, tags=pa.array(range(50)))


def missing_column(root: Path, raw: Raw) -> None:
    raw["features"]["price"]["column"] = "prize"


def wrong_label(root: Path, raw: Raw) -> None:
    write_part(root, DAYS[0], "part-0.parquet", 50, seed=0, click=pa.array([0.0] * 49 + [2.0]))


def negative_id(root: Path, raw: Raw) -> None:
    write_part(root, DAYS[0], "part-0.parquet", 50, seed=0, item=pa.array([3] * 10 + [-4] + [5] * 39))


def large_id(root: Path, raw: Raw) -> None:
    raw["tables"]["item"]["rows"] = 20


def not_a_number(root: Path, raw: Raw) -> None:
    prices = np.ones(50, np.float32)
    prices[21] = np.nan
    write_part(root, DAYS[0], "part-0.parquet", 50, seed=0, price=pa.array(prices))


def no_labels(root: Path, raw: Raw) -> None:
    write_part(root, DAYS[0], "part-0.parquet", 50, seed=0, buy=pa.nulls(50, pa.float32()))


def misspelt(root: Path, raw: Raw) -> None:
    raw["train"]["wrokers"] = 2


def unknown_preset(root: Path, raw: Raw) -> None:
    raw["model"] = {"preset": "mmeo"}


def wrong_metric(root: Path, raw: Raw) -> None:
    raw["train"]["select"] = "buy.acu"


def adam_on_cpu(root: Path, raw: Raw) -> None:
    raw["train"]["sparse_optimizer"] = {"type": "adam"}


CASES: dict[Callable[[Path, Raw], None], tuple[int, list[str]]] = {
    no_root: (65, ["gone", "does not exist", "data.path"]),
    no_partition: (65, ["no partition ds=2026-01-03", "it has ds=2026-01-01 to ds=2026-01-02"]),
    empty_partition: (65, [f"ds={DAYS[0]}", "no parquet file"]),
    cut_footer: (65, ["part-0.parquet", "not a readable parquet file", "write it again or remove it"]),
    empty_file: (65, ["part-0.parquet", "0 bytes"]),
    wrong_type: (65, ["part-0.parquet", "`price`", "features.price", "string", "a number"]),
    other_schema: (65, ["part-1.parquet", "`tags`", "features.tags", "int64", "a list"]),
    missing_column: (65, ["part-0.parquet", "`prize`", "features.price", "set features.price.column to `price`"]),
    wrong_label: (65, ["part-0.parquet", "`click`", "row 49", "2", "0 or 1"]),
    negative_id: (65, ["part-0.parquet", "`item`", "row 10", "-4", "0 to 255", "`direct`"]),
    large_id: (65, ["part-0.parquet", "`item`", "0 to 19", "tables.item.rows"]),
    not_a_number: (65, ["part-0.parquet", "`price`", "row 21", "nan", "finite"]),
    no_labels: (65, ["tasks.buy", "`buy`", "base_rate"]),
    misspelt: (64, ["conf.yaml", "train.wrokers", "did you mean `workers`?"]),
    unknown_preset: (64, ["mmeo", "did you mean `mmoe`?"]),
    wrong_metric: (64, ["train.select", "buy.acu"]),
    adam_on_cpu: (64, ["train.sparse_optimizer.type", "adam", "rowwise_adagrad"]),
}


@pytest.mark.parametrize("spoil", CASES, ids=lambda f: f.__name__)
def test_train_refuses(spoil: Callable[[Path, Raw], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "logs"
    for day in DAYS:
        write_part(root, day, "part-0.parquet", 50, seed=1)
    raw = small_config(root, tmp_path / "runs", "bad")
    spoil(root, raw)
    code, parts = CASES[spoil]
    assert run_command(["train", "--config", write_config(raw, tmp_path / "conf.yaml"), "--dry-run"]) == code
    said = capfd.readouterr().err
    assert [p for p in parts if p not in said] == []
    assert "Traceback" not in said
    assert len(said) < 700
    assert not (tmp_path / "runs").exists()


def test_the_unspoilt_logs_are_accepted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "logs"
    for day in DAYS:
        write_part(root, day, "part-0.parquet", 50, seed=1)
    raw = small_config(root, tmp_path / "runs", "good")
    assert run_command(["train", "--config", write_config(raw, tmp_path / "conf.yaml"), "--dry-run"]) == 0
    assert "50 training rows" in capfd.readouterr().out


def test_a_dry_run_knows_that_a_checkpoint_does_not_fit_here(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymtl.training.cluster.ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for day in DAYS:
        write_part(tmp_path / "logs", day, "part-0.parquet", 50, seed=1)
    raw = small_config(tmp_path / "logs", tmp_path / "runs", "large")
    raw["tables"]["user"]["rows"] = 2**40
    command = ["train", "--config", write_config(raw, tmp_path / "conf.yaml"), "--dry-run"]
    assert run_command(command) == 74
    assert "and one checkpoint of the tables takes" in capfd.readouterr().err
    assert run_command([*command, "--address", "head:6379"]) == 0


@pytest.mark.parametrize(
    ("command", "code", "parts"),
    [
        (["train"], 2, ["--config"]),
        (["train", "--config", "{tmp}/none.yaml"], 64, ["none.yaml"]),
        (["trian"], 2, ["trian"]),
        (["evaluate", "{tmp}/none"], 66, ["none"]),
        (["report", "{tmp}/none"], 1, ["none"]),
        (["synth", "{tmp}/out", "--start", "tomorrow"], 64, ["start", "tomorrow"]),
        (["synth", "{tmp}/out", "--set", "uesrs=5"], 64, ["uesrs", "did you mean `users`?"]),
        (["convert", "sensus"], 65, ["sensus", "census"]),
        (["convert", "census", "--source", "{tmp}/none"], 65, ["none"]),
    ],
)
def test_other_commands(
    command: list[str], code: int, parts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command([c.format(tmp=tmp_path) for c in command]) == code
    said = capfd.readouterr().err
    assert [p for p in parts if p not in said] == []
    assert "Traceback" not in said
