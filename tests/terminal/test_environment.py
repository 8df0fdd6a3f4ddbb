"""Commands in the environments that operators have: no home, warnings as errors, disks that are full or not theirs."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.pipe import finish
from tests.helpers.terminal import RAYMTL, ROOT, clean_environment


def raymtl(*arguments: str, env: dict[str, str] | None = None, forked: bool = False) -> tuple[int, str]:
    """The exit code of a command, and all that it wrote."""
    code, output, error = finish(*arguments, env=env, forked=forked)
    return code, output + error


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("env") / "logs"
    code, said = raymtl("synth", str(folder), "--days", "2", "--rows-per-day", "2000")
    assert code == 0, said
    return folder


@pytest.mark.ray
def test_no_home_and_warnings_as_errors(logs: Path, tmp_path: Path) -> None:
    env = {"HOME": "/proc/nowhere", "PYTHONWARNINGS": "error", "XDG_CACHE_HOME": "/proc/nowhere"}
    run = ["--set", f"output={tmp_path}", "--workers", "1", "--name", "r"]
    code, said = raymtl("train", "--config", f"{logs}/config.yaml", *run, env=env)
    assert code == 0, said
    assert "2,000 rows trained, 0 left out" in said
    shown, drawn = raymtl("report", f"{tmp_path}/r", env=env)
    assert (shown, drawn) == (0, f"report: {tmp_path}/r/report.html\n")
    for word in ("Traceback", "Warning", "Matplotlib", "(raylet)"):
        assert word not in said


def test_a_user_whom_no_list_knows(logs: Path, tmp_path: Path) -> None:
    """As in a container that is started with a number for a user: no home, no name, and rights on little."""
    # It may read everything: the Python of the tests can lie in a folder of root's
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    other = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *caps]
    if subprocess.run([*other, "true"], capture_output=True).returncode:
        pytest.skip("only root can become another user")
    env = clean_environment()
    for name in ("HOME", "USER", "LOGNAME"):
        env.pop(name, None)
    command = ["train", "--config", f"{logs}/config.yaml", "--dry-run", "--set", f"output={tmp_path}/runs"]
    done = subprocess.run([*other, *RAYMTL, *command], env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 74, done.stderr
    assert done.stderr.startswith(
        f"raymtl: output: the run folder would be `{tmp_path}/runs/synth`, but `{tmp_path}` is not writable"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        (
            {"RAY_ADDRESS": "http://127.0.0.1:8265"},
            64,
            "raymtl: RAY_ADDRESS is `http://127.0.0.1:8265`, the address of a dash",
        ),
        (
            {"TMPDIR": "here"},
            64,
            "raymtl: Ray cannot start with its temporary folder `here/ray`; set TMPDIR to an absolute",
        ),
        ({"TMPDIR": "/tmp/" + "a" * 60}, 64, "raymtl: Ray cannot start with its temporary folder `/tmp/aaa"),
        (
            {"TMPDIR": "/proc/none"},
            74,
            "raymtl: Ray cannot start: its temporary folder `/proc/none/ray` cannot be written",
        ),
        ({"RAY_ADDRESS": "127.0.0.1:1"}, 69, "raymtl: cannot reach a Ray cluster at `127.0.0.1:1`: Connection refused"),
    ],
)
def test_what_keeps_ray_away_is_one_sentence(env: dict[str, str], code: int, words: str, logs: Path) -> None:
    began = time.monotonic()
    found, said = raymtl("check", "--config", f"{logs}/config.yaml", env=env)
    assert found == code, said
    *steps, sentence = said.splitlines()
    assert sentence.startswith(words)
    assert all("Ray" in step for step in steps)  # what the command is about to do
    assert time.monotonic() - began < 60


CASES = [
    ("synth", "{no}/logs", "--days", "2", "--rows-per-day", "100"),
    ("train", "--config", "{conf}", "--set", "output={no}", "--dry-run"),
    ("tune", "--config", "{conf}", "--set", "output={no}", "--set", "{tune}", "--dry-run"),
    ("daily", "--config", "{conf}", "--set", "daily.store={no}", "--date", "2026-01-01", "--dry-run"),
    ("report", "{run}", "--out", "{no}/report.html"),
    ("versions", "publish", "{run}", "--store", "{no}"),
]


@pytest.mark.parametrize("command", CASES, ids=lambda command: command[0])
def test_what_cannot_be_written_ends_with_74(command: tuple[str, ...], logs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((logs / "config.yaml").read_text())
    (run / "metrics.jsonl").write_text("")
    values = {
        "no": f"{tmp_path}/file/folder",
        "conf": f"{logs}/config.yaml",
        "run": str(run),
        "tune": "tune={objective: {metric: cart.auc}, space: {tasks.cart.weight: {log_uniform: [0.1, 10]}}, max_trials: 2}",
    }
    code, said = raymtl(*(word.format(**values) for word in command), forked=True)
    assert code == 74, said
    assert f"{tmp_path}/file" in said
    assert "Traceback" not in said


def test_a_current_folder_that_was_removed(logs: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && exec {' '.join(RAYMTL)} train --config {logs}/config.yaml --dry-run"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, env=clean_environment())
    assert done.returncode == 74, done.stderr
    assert done.stderr.splitlines()[-1] == ("raymtl: the current folder has been removed; change to another folder")


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ({"PYTHONOPTIMIZE": "2"}, 71, "raymtl: Python runs without docstrings, which Ray needs; unset PYTHONOPTIMIZE"),
        ({"RAY_worker_niceness": "x"}, 64, "raymtl: RAY_worker_niceness is `x`; expected a whole number"),
    ],
)
def test_what_keeps_libraries_from_being_imported(env: dict[str, str], code: int, words: str, logs: Path) -> None:
    found, said = raymtl("train", "--config", f"{logs}/config.yaml", "--dry-run", env=env)
    assert (found, said.startswith(words)) == (code, True), said
