"""Standard output and error that are full, closed, narrow or of another encoding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from raymtl.daily.reports.table import day_table
from raymtl.reports.terminal import metric_table
from raymtl.telemetry.output import FoldedTable
from tests.helpers.fake_records import thirty_days
from tests.helpers.fake_run import write_run
from tests.helpers.terminal import RAYMTL, ROOT, clean_environment


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `raymtl` is the command; its exit code is that of the first part of a pipe."""
    command = f'raymtl() {{ "{sys.executable}" -m raymtl "$@"; }}; {line}; exit ${{PIPESTATUS[0]}}'
    environment = clean_environment(env)
    return subprocess.run(
        ["bash", "-c", command],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


def test_a_reader_that_goes_away_stops_nothing() -> None:
    done = shell("raymtl config schema | head -1")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_under_the_output_is_said() -> None:
    for command in ("config schema", "config presets", "config show -c jobs/conf/example.yaml"):
        done = shell(f"raymtl {command} > /dev/full")
        assert done.returncode == 74
        assert done.stderr.startswith("raymtl: standard output could not be written (No space left on device)")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_the_exit_code_survives_closed_streams(closed: str) -> None:
    assert shell(f"raymtl config show -c /nowhere.yaml {closed}").returncode == 64


def test_without_standard_output() -> None:
    done = shell("raymtl config presets >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_that_the_encoding_lacks(encoding: str) -> None:
    done = shell("raymtl plan -c jobs/conf/example.yaml --gpus 2", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_variable_that_is_set_to_nothing() -> None:
    assert shell("raymtl config presets", RAYMTL_LOG="").returncode == 0


def test_warnings_as_errors_by_option() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *RAYMTL[1:], "plan", "-c", "jobs/conf/example.yaml", "--gpus", "2"],
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("columns", [40, 80, 120, 300])
def test_tables_are_complete_on_every_screen(columns: int, tmp_path: Path) -> None:
    for table in (metric_table(write_run(tmp_path / "run", evals=1)), day_table(thirty_days())):
        wide, narrow = Console(width=1000), Console(width=columns)
        with wide.capture() as whole:
            wide.print(table)
        with narrow.capture() as parts:
            narrow.print(table)
        shown = set(parts.get().split()) | {"".join(parts.get().split())}
        numbers = [word for word in whole.get().split() if any(c.isdigit() for c in word)]
        lost = [word for word in numbers if word not in shown and not any(word in text for text in shown)]
        assert lost == []
        assert all(len(line.rstrip()) <= columns for line in parts.get().splitlines())


def test_the_parts_of_a_table() -> None:
    table = FoldedTable("day", "rows", "auc", title="title", box=None, pad_edge=False)
    table.add_row("2026-01-31", "2,738,627", "0.7839")
    console = Console(width=21)
    with console.capture() as shown:
        console.print(table)
    assert [line.split() for line in shown.get().splitlines()] == [
        ["title"],
        ["day", "rows"],
        ["2026-01-31", "2,738,627"],
        ["day", "auc"],
        ["2026-01-31", "0.7839"],
    ]


def test_joined_columns_share_a_part() -> None:
    table = FoldedTable("task", "rows", box=None, pad_edge=False)
    table.add_column("error")
    table.add_column("constant", joined=True)
    table.add_row("spend", "2,738,627", "0.7839", "0.81")
    heads = {}
    for width in (24, 16):  # all three do not fit, and not even the two
        with (console := Console(width=width)).capture() as shown:
            console.print(table)
        heads[width] = [line.split() for line in shown.get().splitlines()[::2]]
    assert heads[24] == [["task", "rows"], ["task", "error", "constant"]]
    assert heads[16] == [["task", "rows"], ["task", "error"], ["task", "constant"]]


def test_numbers_of_a_full_tmpfs(tmp_path: Path) -> None:
    """A log on a full disk, as in `raymtl daily … >> daily.log`."""
    done = shell(f"raymtl synth {tmp_path}/logs --days 1 --rows-per-day 1000 > /dev/full")
    assert done.returncode == 74
    assert os.path.exists(tmp_path / "logs" / "config.yaml")  # the work is done all the same
