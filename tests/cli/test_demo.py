"""`raymtl demo`: its steps, its folder, and how it ends."""

import json
import sys
from pathlib import Path

import pytest

from raymtl.cli.main import run_command
from raymtl.daily.record import FOLDER
from raymtl.daily.reports.index import NAME
from raymtl.demo import Demo
from tests.helpers.command_lines import fault
from tests.helpers.interrupt import interrupt
from tests.helpers.terminal import RAYMTL, Terminal


def quick(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Replace the steps."""
    monkeypatch.setattr(Demo, "steps", {f"step {n}": step.split() for n, step in enumerate(steps)})


def test_the_steps_are_command_lines_of_raymtl(tmp_path: Path) -> None:
    demo = Demo.open(str(tmp_path / "demo"))
    assert [fault(words) for words in demo.steps.values()] == [None] * 6
    assert [words[0] for words in demo.steps.values()] == ["synth", "check", "train", "report", "daily", "daily"]


def test_the_steps_fit_the_logs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    synth, _, train, _, *days = Demo.open(str(tmp_path / "demo")).steps.values()
    assert run_command(["700" if word == "150000" else word for word in synth]) == 0
    assert run_command([*train, "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["train_rows"] == 2100
    for day in days:
        assert run_command([*day, "--dry-run", "--json"]) == 0
    assert "2026-01-03: would train a first version; ready with 2,100 rows" in capfd.readouterr().out


def test_the_reports_are_where_the_commands_write_them(tmp_path: Path) -> None:
    demo = Demo.open(str(tmp_path))
    run, store = demo.steps["write the report"][1], f"{tmp_path}/versions"
    assert list(demo.reports.values()) == [f"{run}/report.html", f"{store}/{FOLDER}/{NAME}"]
    assert f"daily.store={store}" in list(demo.steps.values())[-1]


def test_the_steps_run_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch, "--version", "config presets")
    (tmp_path / "raymtl").mkdir()  # as below a checkout
    (tmp_path / "typing.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(Path.cwd()))])
    for _ in range(2):  # the folder is then its own
        assert run_command(["demo"]) == 0
        said = capfd.readouterr().out
        places = [
            said.index(text) for text in ("1/2 step 0", "0.1.0", "2/2 step 1", "aitm", "done in ", "report of the d")
        ]
        assert places == sorted(places)
        assert f"report of the training: {tmp_path}/demo/runs/demo/report.html\n" in said


def test_a_failed_step_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch, "report /nowhere/run", "config presets")
    assert run_command(["demo", "--out", str(tmp_path / "demo")]) == 1
    seen = capfd.readouterr()
    assert "step 1" not in seen.out
    assert "done" not in seen.out
    assert len(seen.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("inside", "code", "said"),
    [("mine.txt", 65, "is not empty (`mine.txt`)"), (None, 74, "cannot be written (File exists)")],
)
def test_other_folders_are_refused(
    inside: str | None, code: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "demo"
    if inside:
        place.mkdir()
    mine = place / inside if inside else place
    mine.write_text("mine")
    assert run_command(["demo", "--out", str(place)]) == code
    error = capfd.readouterr().err
    assert f"`{place}`" in error
    assert said in error
    assert error.endswith("choose another folder with --out\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_a_url_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["demo", "--out", "s3://bucket/demo"]) == 64
    assert "--out is `s3://bucket/demo`, a URL; name a folder" in capfd.readouterr().err


@pytest.mark.ray
@pytest.mark.parametrize(
    ("signals", "moment"),
    [("INT", "process raymtl synth"), ("INT", r"[1-9][\d,]+ of 900,000"), ("TERM", r"[1-9][\d,]+ of 900,000")],
)
def test_a_signal_ends_it_with_one_line(signals: str, moment: str, tmp_path: Path) -> None:
    outcome = interrupt(["demo", "--out", str(tmp_path / "demo")], "at work", signals, moment)
    assert outcome is not None
    assert outcome.faults(signals) == []
    assert outcome.screen.count("raymtl: stopped") == 1


@pytest.mark.ray
def test_a_signal_between_two_steps_ends_it_too(tmp_path: Path) -> None:
    """Sent while a child runs that ends with 0 all the same."""
    code = (
        "import os, signal, sys\nfrom raymtl import signals\nsignals.install()\nsignals.begin('stopped; rerun')\n"
        "child = [sys.executable, '-c', 'import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.kill(os.getppid(), signal.SIGINT); time.sleep(.2)']\n"
        "try:\n    signals.run_child(child)\n    print('not stopped')\nexcept KeyboardInterrupt:\n    signals.end(0)\n"
    )
    with Terminal([RAYMTL[0], "-c", code]) as terminal:
        assert terminal.wait() == 130, terminal.text
        assert terminal.text.strip() == "raymtl: stopped; rerun"
