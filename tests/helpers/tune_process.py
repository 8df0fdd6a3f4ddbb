"""Small searches as processes, to be killed and started again by the same command."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.helpers.run_logs import DAYS, small_config, write_config, write_part


def search_config(root: Path, name: str, tune: dict[str, Any], files: int = 8, rows: int = 200, **train: Any) -> str:
    """Logs of `files` units of `rows` rows each, and the configuration of a search over them."""
    logs = root / "logs"
    if not logs.exists():
        for n in range(files):
            write_part(logs, DAYS[0], f"part-{n}.parquet", rows, seed=n)
        write_part(logs, DAYS[1], "part-0.parquet", 400, seed=99)
    raw = small_config(logs, root / "runs", name, **train)
    raw["data"]["unit_rows"] = rows
    return write_config({**raw, "tune": tune}, root / f"{name}.yaml")


def start(config: str, log: Path, *arguments: str) -> subprocess.Popen:
    """The command, as a process."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "raymtl", "tune", "--config", config, *arguments], stdout=out, stderr=out
        )


def leaks(address: str, wait_s: float = 30.0) -> list[str]:
    """Actors and placement groups that are still there so long after their driver died, by Ray's state API."""
    from ray.util.state import list_actors, list_placement_groups

    deadline = time.monotonic() + wait_s
    while True:
        actors = [a.class_name for a in list_actors(address, filters=[("state", "!=", "DEAD")], limit=10_000)]
        groups = [
            g.placement_group_id
            for g in list_placement_groups(address, filters=[("state", "!=", "REMOVED")], limit=10_000)
        ]
        if not actors + groups or time.monotonic() > deadline:
            return actors + groups
        time.sleep(1)
