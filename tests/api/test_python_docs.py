"""The snippets of docs/python.md run, one after the other, and the results have the keys that their types name.

Starting workers takes the time here. So the evaluation and the search are only prepared: tests/cli/test_main.py and
tests/tuning/test_tune_run.py run what these functions call.
"""

import re
import types
from pathlib import Path

import pytest

import raymtl
from raymtl import results
from raymtl.cli.main import run_command
from raymtl.tuning.check import check

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
PREPARED = re.compile(r"^(measured|found) = .*", re.M | re.S)


@pytest.mark.ray
@pytest.mark.timeout(480)
def test_the_snippets_run_in_order(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"```\nraymtl (.*)\n```", PAGE)
    assert run_command(command.split()) == 0
    capsys.readouterr()
    page = types.ModuleType("page")
    printed = []
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(PREPARED.sub("", code), "docs/python.md", "exec"), page.__dict__)
        printed.append(capsys.readouterr().out)
    assert "training with" in printed[0]
    assert "2026-01-03 published" in printed[3]
    assert "64 " in printed[-1]
    for value, kind in (
        (page.result, results.TrainResult),
        (page.scored, results.ScoreResult),
        (page.programs, results.ExportResult),
    ):
        assert kind.__required_keys__ <= set(value)
    assert set(page.result) <= set(results.TrainResult.__annotations__)
    assert [dimension.name for dimension in check(page.search).dimensions] == ["train.dense_optimizer.lr"]
    quiet = raymtl.train(page.config, progress=False)
    assert quiet == page.result
    assert capsys.readouterr().out == ""
