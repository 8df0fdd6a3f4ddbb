"""A run on four workers over three nodes, one of which is killed, and another joins: is every row trained once?

    python -m tests.benchmarks.cluster.lose_nodes
    python -m tests.benchmarks.cluster.lose_nodes --announced-s 20   # told before, a checkpoint after each tenth unit alone

Prints one JSON line: rows of the input, rows trained, how the number of workers changed and when, and what was left behind.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers.ray_nodes import ENVIRONMENT, Nodes, workers_on
from tests.helpers.run_logs import write_elastic_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4000, help="rows of each file")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--announced-s", type=float, help="announce the loss of the node so long before")
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    with tempfile.TemporaryDirectory(prefix="lose-nodes-") as scratch:
        root = Path(scratch)
        os.environ["TMPDIR"] = str(root / "temporary")
        (root / "temporary").mkdir()
        rarely = None if options.announced_s is None else {"every_units": 10}
        config = write_elastic_run(root, "elastic", options.files, options.rows, options.epochs, rarely)
        nodes = Nodes(1)
        second, third = nodes.add(2), nodes.add(1)
        began = time.monotonic()
        events: list[tuple[float, str]] = []

        def note(what: str) -> None:
            events.append((round(time.monotonic() - began, 1), what))
            print(events[-1], file=sys.stderr, flush=True)

        command = [sys.executable, "-m", "raymtl", "train", "-c", str(config), "--address", nodes.address, "--json"]
        with (root / "log").open("wb") as out:
            driver = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        metrics = root / "runs" / "elastic" / "metrics.jsonl"

        def lines() -> list[dict]:
            text = metrics.read_text() if metrics.exists() else ""
            return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

        def wait_for(what: str, condition, longest_s: float = 240) -> None:
            until = time.monotonic() + longest_s
            while not condition():
                assert driver.poll() is None, f"{what}: the driver ended\n" + (root / "log").read_text()[-3000:]
                assert time.monotonic() < until, (
                    f"{what}: not within {longest_s} s\n" + (root / "log").read_text()[-3000:]
                )
                time.sleep(0.5)
            note(what)

        def rows() -> int:
            return max((line.get("rows", 0) for line in lines()), default=0)

        try:
            wait_for("training on three nodes", lambda: rows() > 2 * options.rows)
            note(f"workers per node {[len(workers_on(n)) for n in (nodes.head, second, third)]}")
            if options.announced_s is not None:
                before = len(list((root / "runs" / "elastic").glob("checkpoint_*")))
                nodes.announce(second, options.announced_s)
                note(f"loss of the second node announced, {before} checkpoints")
                until = time.monotonic() + options.announced_s
                wait_for("saved", lambda: len(list((root / "runs" / "elastic").glob("checkpoint_*"))) > before)
                time.sleep(max(0.0, until - time.monotonic()))
            nodes.kill(second)
            note("second node killed")
            at = rows()
            wait_for(
                "training goes on", lambda: "rows trained, with 2 workers" in (root / "log").read_text() and rows() > at
            )
            fourth = nodes.add(2)
            note("another node joined")
            wait_for(
                "its workers train",
                lambda: "rows trained, with 4 workers" in (root / "log").read_text() and len(workers_on(fourth)) == 2,
            )
            code = driver.wait(timeout=600)
            note(f"ended with {code}")
        finally:
            if driver.poll() is None:
                driver.kill()
            nodes.close()
        result = json.loads((root / "log").read_text().splitlines()[-1])
        print(
            json.dumps(
                {
                    "rows_of_the_input": options.files * options.rows * options.epochs,
                    "rows_trained": result["rows_trained"],
                    "rows_left_out": result["rows_left_out"],
                    "starts": result["starts"],
                    "workers_at_the_end": result["workers"],
                    "events": events,
                    "left_in_the_temporary_folder": sorted(p.name for p in (root / "temporary").glob("raymtl-*")),
                }
            )
        )
        assert result["rows_trained"] == options.files * options.rows * options.epochs


if __name__ == "__main__":
    main()
