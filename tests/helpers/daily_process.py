"""The daily job as a process, killed at random moments and started again by the same command."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from raymtl.model_store import store as versions
from raymtl.model_store.lease import holders
from raymtl.storage.object_store import Store

VICTIMS = ("driver", "worker", "both")


@dataclass
class Killed:
    """What was killed and when."""

    kills: list[tuple[str, str]] = field(default_factory=list)
    """Victim, and the state of the job that its last line told."""
    starts: int = 0
    seconds: float = 0.0


def command(config: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "raymtl", "daily", "--config", config, *arguments]


def run_and_kill(
    config: str,
    arguments: list[str],
    log: Path,
    store: Store,
    kills: int,
    longest_s: float,
    seed: int,
    check: Callable[[Store], None],
) -> Killed:
    """Run the command until it ends well, killing something `kills` times, each up to `longest_s` after the start or kill before.

    `check` looks at the storage after each kill. Raises AssertionError where the command ends by itself with an error.
    """
    dice, done, began = random.Random(seed), Killed(), time.monotonic()
    while True:
        done.starts += 1
        with log.open("ab") as out:
            process = subprocess.Popen(command(config, *arguments), stdout=out, stderr=out)
        ended = _until_killed(process, log, kills, longest_s, dice, done)
        check(store)
        if ended:
            assert process.returncode == 0, (process.returncode, log.read_text()[-3000:])
            done.seconds = time.monotonic() - began
            return done


def _until_killed(
    process: subprocess.Popen, log: Path, kills: int, longest_s: float, dice: random.Random, done: Killed
) -> bool:
    """Let the process run, killing workers or itself; whether it ended by itself."""
    while len(done.kills) < kills:
        try:
            process.wait(dice.uniform(1, longest_s))
            return True
        except subprocess.TimeoutExpired:
            pass
        victim = dice.choice(VICTIMS)
        worker = train_worker(process.pid) if victim != "driver" else None
        if victim == "worker" and worker is None:
            continue  # none is there yet
        done.kills.append((victim if worker is not None else "driver", _state(log)))
        if worker is not None:
            worker.kill()
        if victim != "worker":
            process.kill()
            process.wait()
            return False
    process.wait()
    return True


def until(process: subprocess.Popen, log: Path, text: str, limit_s: float = 240) -> None:
    """Wait for a line of the command."""
    end = time.monotonic() + limit_s
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, f"no `{text}` in {limit_s} s: {log.read_text()[-2000:]}"
        time.sleep(0.02)


def train_worker(pid: int) -> psutil.Process | None:
    """A training worker of the Ray cluster that a process started."""
    me = psutil.Process(pid)
    for process in me.children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


def nothing_is_half(store: Store) -> None:
    """Every version that the store shows is whole."""
    for listed in versions.list_versions(store):
        assert listed.manifest is not None, f"{listed.id} has no manifest"
        assert versions.verify(store, listed.id) == [], listed.id


def no_lease(store: Store) -> None:
    assert holders(store) == []


def _state(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line[:2] == "20" and ": " in line]
    return lines[-1] if lines else "start"
