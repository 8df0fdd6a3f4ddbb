"""Every command that starts no Ray, as a process on terminals and pipes of all kinds; the others stand in test_quiet.py."""

import json
import re
from pathlib import Path

import pytest

from tests.helpers.pipe import foreign, run
from tests.helpers.terminal import RAYMTL, Terminal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
ENVIRONMENTS = {"no colour": {"NO_COLOR": "1"}, "dumb": {"TERM": "dumb"}, "json": {"RAYMTL_LOG": "json"}}
SPACE = "tune={space: {train.dense_optimizer.lr: {log_uniform: [0.0001, 0.01]}}}"
COMMANDS = {
    "presets": (["config", "presets"], "mmoe"),
    "convert": (["convert"], "movielens"),
    "plan": (["plan", "--config", "{root}/logs/config.yaml", "--gpus", "2"], "item_id"),
    "train": (["train", "--config", "{root}/logs/config.yaml", "--set", "output={root}", "--dry-run"], "ready: 3,000"),
    "daily": (
        [*("daily", "--config", "{root}/logs/config.yaml", "--set", "daily.store={root}/new"), "--date", "2026-01-02"]
        + ["--set", "daily.bootstrap_days=2", "--dry-run"],
        "2026-01-02: would train a first version",
    ),
    "tune": (["tune", "--config", "{root}/logs/config.yaml", "--set", SPACE, "--dry-run"], "0.0001 to 0.01"),
    "list": (["versions", "list", "--store", "{root}/store"], "two"),
    "show": (["versions", "show", "--store", "{root}/store"], "two"),
    "diff": (["versions", "diff", "one", "two", "--store", "{root}/store"], "one"),
    "verify": (["versions", "verify", "--store", "{root}/store"], "match the manifest"),
    "report": (["report", "{root}/run"], "report: "),
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, trained: Path) -> tuple[list[str], str]:
    words, seen = COMMANDS[request.param]
    return [word.format(root=trained) if "{root}" in word else word for word in words], seen


def test_a_narrow_terminal_loses_nothing_that_a_pipe_shows(command: tuple[list[str], str]) -> None:
    words, seen = command
    piped, _ = run(*words)
    assert seen in "\n".join(piped)
    for columns in (80, 200):
        with Terminal([*RAYMTL, *words], columns=columns, forked=True) as terminal:
            assert terminal.wait() == 0, terminal.text
        assert _missing("\n".join(piped), terminal.text) == set(), terminal.text


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_other_environments(command: tuple[list[str], str], kind: str) -> None:
    words, seen = command
    with Terminal([*RAYMTL, *words], columns=200, env=ENVIRONMENTS[kind], forked=True) as terminal:
        assert terminal.wait() == 0, terminal.text
    raw = terminal.raw.decode()
    assert not foreign(terminal.text)
    if kind == "dumb":
        assert "\x1b" not in raw
    elif kind == "no colour":
        assert not re.search(r"\x1b\[[\d;]*\b(3[0-7]|38|4[0-7]|48|9[0-7])\b[\d;]*m", raw)
    else:
        lines = [json.loads(line) for line in raw.splitlines()]
        assert any(seen in line["message"] for line in lines)


def _missing(piped: str, screen: str) -> set[str]:
    """Words that are nowhere on the screen, whose tables may stand in parts and whose long words may be folded."""
    joined = re.sub(r"\s", "", screen)
    return {word for word in piped.split() if word.strip("─━╭╮╰╯│┃") and word not in screen and word not in joined}
