"""Every call of raymtl in the manifests, the schedulers' files and the guides is one that the command line understands."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.command_lines import ROOT, calls, code_of, fault

CLUSTER = ROOT / "cluster"


def _text(path: Path) -> str:
    if path.suffix == ".md":
        return code_of(path.read_text())
    if path.suffix == ".py":
        return "\n".join(re.findall(r'"(python .*?)"', path.read_text()))
    comments = "\n".join(re.findall(r"^#(.*)", path.read_text(), re.M))
    return "\n".join([comments, *(_entrypoints(list(yaml.safe_load_all(path.read_text()))))])


def _entrypoints(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["entrypoint"]] if "entrypoint" in value else []
        return own + [found for inner in value.values() for found in _entrypoints(inner)]
    return [found for inner in value for found in _entrypoints(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("cluster/rayjob-daily.yaml", 1),
        ("cluster/rayjob-train.yaml", 1),
        ("cluster/rayjob-train-gpu.yaml", 1),
        ("cluster/rayjob-tune.yaml", 1),
        ("cluster/rayjob-score.yaml", 1),
        ("cluster/raycronjob-daily.yaml", 1),
        ("cluster/raycluster.yaml", 2),
        ("cluster/raycluster-gpu.yaml", 2),
        ("cluster/airflow_daily.py", 1),
        ("cluster/README.md", 1),
        ("docs/cluster.md", 8),
        ("docs/daily.md", 10),
        ("docs/serving.md", 4),
        ("docs/tutorial.md", 8),
        ("docs/index.md", 4),
        ("README.md", 3),
    ],
)
def test_calls_are_understood(file: str, least: int) -> None:
    found = list(calls(_text(ROOT / file)))
    assert len(found) >= least
    assert not [problem for words in found if (problem := fault(words))]


def test_every_file_that_calls_raymtl_is_checked() -> None:
    listed = {Path(case[0]).name for case in test_calls_are_understood.pytestmark[0].args[1]}
    calling = {path.name for path in CLUSTER.iterdir() if path.is_file() and "/jobs/" in path.read_text()}
    assert calling <= listed


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("raymtl daily --config a.yaml --day 2026-01-31", "no option --day"),
        ("cd x && .venv/bin/raymtl daily --config >> log 2>&1; echo", "--config without a value"),
        ("python /app/jobs/train.py --config a.yaml --worker 4", "no option --worker"),
        ("raymtl submit train -c a.yaml --worker 4 --no-wait", "`raymtl submit train` has no option --worker"),
        ("raymtl submit nightly -c a.yaml", "no command `submit nightly`"),
        ("raymtl versions undo --store s", "no command `versions undo`"),
        ("raymtl versions rollback v1 v2 --store s", "takes 1 arguments"),
    ],
)
def test_wrong_calls_are_found(line: str, problem: str) -> None:
    (words,) = calls(line)
    assert problem in str(fault(words))


def test_a_script_that_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError, match="does not exist"):
        list(calls("python jobs/nightly.py --config a.yaml"))
