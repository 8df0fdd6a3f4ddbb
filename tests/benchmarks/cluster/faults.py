"""Rounds of train and daily on a cluster of three nodes, with logs, runs and versions on S3, and one fault or more in each.

    python -m tests.benchmarks.cluster.faults --rounds 20 --seed 1

Faults: a worker, a node's raylet or the driver is killed with SIGKILL at a random moment; the storage answers with errors or
drops connections, fails altogether for ten seconds, or takes its time. A command that ends with a documented code is given
again, as a scheduler would. After each round: rows trained (train), and rows, IDs and counts of the version (daily) must be
those of an undisturbed round, every version that the store shows is verified by its hashes, and no actor, placement group,
worker process or folder may be left behind. One JSON line per round, and one at the end.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from raymtl.training.cluster import on_loopback
from tests.helpers.daily_process import no_lease, nothing_is_half
from tests.helpers.daily_world import contents, daily_raw, day_of, write_day
from tests.helpers.ray_nodes import ENVIRONMENT as LOOPBACK
from tests.helpers.ray_nodes import Nodes, workers_on
from tests.helpers.run_logs import DAYS, small_config, write_part
from tests.helpers.s3_server import ENVIRONMENT, S3, Proxy, free_port

FAULTS = ("worker", "raylet", "driver", "storage errors", "storage outage", "slow storage")
DOCUMENTED = {0, 64, 65, 66, 69, 70, 74, 75}
FILES, ROWS, EPOCHS = 10, 800, 2
_RAY_OWN = {"_StatsActor", "_AutoscalingCoordinatorActor", "DatasetManager", "_UsageCollectionActor"}
"""Actors that Ray keeps for the whole cluster."""


@dataclass
class Round:
    """One command and what is done to it."""

    job: str
    fault: str
    config: str
    codes: list[int] = field(default_factory=list)
    dealt: list[tuple[str, float]] = field(default_factory=list)
    """What was done, and when, in seconds after the start."""


class World:
    """Cluster, storage and the input of all rounds."""

    def __init__(self, root: Path, seed: int):
        self.root, self.dice = root, random.Random(seed)
        self.s3 = S3()
        self.proxy = Proxy(self.s3.port, seed)
        for n in range(FILES):
            write_part(root / "logs", DAYS[0], f"part-{n:02}.parquet", ROWS, seed=n)
        write_part(root / "logs", DAYS[1], "part-0.parquet", 300, seed=99)
        for number in range(3):
            write_day(root / "days", number)
        self.s3.upload(str(root / "logs"), "logs")
        self.s3.upload(str(root / "days"), "days")
        self.nodes = Nodes(2, dashboard_port=free_port())
        self._due: list[tuple[float, Callable[[], None]]] = []
        self.others = [self.nodes.add(2), self.nodes.add(2)]

    def close(self) -> None:
        self.nodes.close()
        self.proxy.close()
        self.s3.close()

    def config(self, name: str, job: str) -> str:
        """A configuration on S3, by way of the proxy."""
        if job == "train":
            raw = small_config(Path("-"), Path("-"), name, workers={"min": 1, "max": 3}, epochs=EPOCHS, batch_size=120)
            raw["data"] |= {"path": self.s3.url("logs", self.proxy.port), "unit_rows": ROWS, "block_rows": 200}
            raw["train"]["resize_check_s"] = 5
        else:
            raw = daily_raw(Path("-"), Path("-/-"))
            raw["data"]["path"] = self.s3.url("days", self.proxy.port)
            raw["daily"]["store"] = self.s3.url(f"store-{name}", self.proxy.port)
            raw["train"]["workers"] = 2
        raw["train"] |= {"max_failures": 10, "start_timeout_s": 60, "threads_per_worker": 1, "log_every_steps": 5}
        raw["output"] = self.s3.url("runs", self.proxy.port)
        path = self.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return str(path)

    def command(self, job: str, config: str) -> list[str]:
        end = ["train"] if job == "train" else ["daily", "--date", str(day_of(2))]
        return [sys.executable, "-m", "raymtl", *end, "-c", config, "--address", self.nodes.address, "--json"]

    def run(self, name: str, job: str, fault: str, longest_s: float) -> tuple[Round, dict[str, Any]]:
        """Give the command until it ends well."""
        done = Round(job, fault, self.config(name, job))
        began = time.monotonic()
        deal = None if fault == "none" else self.dice.uniform(3, longest_s)
        self.proxy.slow_s = 0.15 if fault == "slow storage" else 0.0
        while True:
            log = self.root / f"{name}-{len(done.codes)}.log"
            with log.open("wb") as out, (self.root / f"{name}-{len(done.codes)}.err").open("wb") as errors:
                driver = subprocess.Popen(self.command(job, done.config), stdout=out, stderr=errors)
            while driver.poll() is None:
                if deal is not None and time.monotonic() - began > deal and self.strike(fault, driver, done, began):
                    deal = None
                assert time.monotonic() - began < 600, f"{name} ({fault}) hangs: {log.read_text()[-2000:]}"
                self.do_what_is_due()
                time.sleep(0.2)
            done.codes.append(driver.returncode)
            if driver.returncode == 0:
                self.do_what_is_due(all_of_it=True)
                return done, json.loads(log.read_text().splitlines()[-1])
            killed = driver.returncode == -9 and fault == "driver"
            said = Path(str(log).removesuffix("log") + "err").read_text()
            assert killed or driver.returncode in DOCUMENTED, (name, fault, driver.returncode, said[-3000:])
            assert killed or "Traceback" not in said, said[-3000:]
            assert len(done.codes) < 6, (name, fault, done.codes, said[-2000:])
            time.sleep(1)

    def strike(self, fault: str, driver: subprocess.Popen, done: Round, began: float) -> bool:
        """Deal out a fault; False where there is nobody to deal it to yet."""
        if fault == "worker":
            found = [w for node in (self.nodes.head, *self.others) for w in workers_on(node)]
            if not found:
                return False
            with contextlib.suppress(psutil.NoSuchProcess):
                self.dice.choice(found).kill()
        elif fault == "raylet":
            victim = self.others.pop(self.dice.randrange(len(self.others)))
            self.nodes.kill(victim)
            self.later(15, lambda: self.others.append(self.nodes.add(2)))
        elif fault == "driver":
            driver.kill()
        elif fault == "storage errors":
            self.proxy.failing = 0.2
            self.later(20, self.mend)
        elif fault == "storage outage":
            self.proxy.failing = 1.0
            self.later(10, self.mend)
        done.dealt.append((fault, round(time.monotonic() - began, 1)))
        return True

    def mend(self) -> None:
        """The storage is well again."""
        self.proxy.failing = 0.0

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something then, or at the end of the round; in this thread, since Ray starts nodes in the main one alone."""
        self._due.append((time.monotonic() + seconds, what))

    def do_what_is_due(self, all_of_it: bool = False) -> None:
        now = time.monotonic()
        due = [entry for entry in self._due if all_of_it or entry[0] <= now]
        self._due = [entry for entry in self._due if entry not in due]
        for _, what in due:
            what()

    def facts(self, name: str, job: str, result: dict[str, Any]) -> dict[str, Any]:
        """What no fault may change; every version is checked on the way."""
        if job == "train":
            return {key: result[key] for key in ("rows_trained", "rows_left_out", "epochs")}
        from raymtl.daily.record import read_record, recorded_days
        from raymtl.storage.object_store import Store

        store = Store.open(self.s3.url(f"store-{name}"))
        nothing_is_half(store)
        no_lease(store)
        records = [read_record(store, day) for day in recorded_days(store)]
        tables = contents(store)
        return {
            "trained": [(r.trained.rows, r.trained.held_out) for r in records if r and r.trained],
            "status": [r.status for r in records if r],
            "ids": tables["user"]["id"].tolist(),
            "counts": tables["user"]["count"].tolist(),
            "rows": {table: len(columns["embedding"]) for table, columns in tables.items()},
        }

    def left_behind(self) -> list[str]:
        """Actors, placement groups, processes and folders, once what has just ended had its time to go."""
        from ray.util.state import list_actors, list_placement_groups

        until = time.monotonic() + 45
        while True:
            with on_loopback():
                actors = list_actors(self.nodes.address, filters=[("state", "=", "ALIVE")], limit=500)
                placed = list_placement_groups(self.nodes.address, limit=500)
            alive = [actor.class_name for actor in actors]
            groups = [group.placement_group_id for group in placed if group.state != "REMOVED"]
            orphans = [
                p.info["name"]
                for p in psutil.process_iter(["name", "ppid", "environ"])
                if p.info["ppid"] == 1
                and (p.info["name"] or "").startswith("ray::")
                and (p.info["environ"] or {}).get("TMPDIR") == os.environ["TMPDIR"]
            ]
            left = [
                *(f"actor {name}" for name in alive if name not in _RAY_OWN),
                *(f"placement group {group}" for group in groups),
                *(f"process {name}" for name in orphans),
                *(
                    f"folder {path.name}" for path in Path(os.environ["TMPDIR"]).glob("raymtl-[!m]*")
                ),  # not the shared maps
            ]
            if not left or time.monotonic() > until:
                return left
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the fault to begin with, by its place in the list")
    options = parser.parse_args()
    os.environ |= ENVIRONMENT | LOOPBACK | {"RAY_worker_niceness": "0", "PYTHONPATH": str(Path(__file__).parents[3])}
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        root = Path(scratch)
        os.environ["TMPDIR"] = str(root / "t")
        (root / "t").mkdir()
        tempfile.tempdir = None
        world = World(root, options.seed)
        try:
            expected, longest = {}, {}
            for job in ("train", "daily"):
                began = time.monotonic()
                _, result = world.run(f"calm-{job}", job, "none", 0)
                longest[job] = 0.9 * (time.monotonic() - began)
                expected[job] = world.facts(f"calm-{job}", job, result)
                print(
                    json.dumps(
                        {"undisturbed": job, "seconds": round(longest[job] / 0.9, 1), "left": world.left_behind()}
                    ),
                    flush=True,
                )
            total: Counter[str] = Counter()
            for number in range(options.rounds):
                job = ("train", "daily")[number % 2]
                fault = FAULTS[(number // 2 + options.first) % len(FAULTS)]
                began = time.monotonic()
                done, result = world.run(f"round-{number}", job, fault, longest[job])
                found, left = world.facts(f"round-{number}", job, result), world.left_behind()
                line = {
                    "round": number, "job": job, "fault": fault, "dealt": done.dealt, "codes": done.codes,
                    "seconds": round(time.monotonic() - began, 1), "same": found == expected[job], "left": left,
                }  # fmt: skip
                print(json.dumps(line), flush=True)
                assert found == expected[job], (found, expected[job])
                total[f"{job}, {fault}"] += 1
            print(json.dumps({"rounds": options.rounds, "all_same": True, "by": total}))
        finally:
            world.close()


if __name__ == "__main__":
    main()
