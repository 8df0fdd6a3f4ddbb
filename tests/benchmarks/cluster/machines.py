"""A run on several machines that are taken away and added: network, process, mount and host name namespaces on this one.

    sudo python -m tests.benchmarks.cluster.machines

Each machine has its own address, host name, processes, /tmp and /dev/shm; what they share is a folder for logs and runs. Ray is
started on them by `ray start`, as on real ones. A job is submitted from outside by `raymtl submit train`; then a machine is
switched off (all its processes end at once, nobody is told), another one joins, and the run must end with every row trained once.
Needs root and `ip`, `unshare` and `nsenter`. Prints one JSON line.
"""

import argparse
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.run_logs import write_elastic_run

ROOT = Path(__file__).parents[3]
BRIDGE, NET = "raymtl0", "10.77.0"
BIN = Path(sys.executable).parent


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


class Machine:
    """One machine; `run` gives it a command."""

    def __init__(self, number: int, shared: Path):
        self.number, self.name, self.address = number, f"raymtl-m{number}", f"{NET}.{number}"
        sh(f"ip netns add {self.name}")
        sh(f"ip link add rm{number} type veth peer name eth0 netns {self.name}")
        sh(f"ip link set rm{number} master {BRIDGE} up")
        inside = f"ip netns exec {self.name}"
        sh(f"{inside} ip addr add {self.address}/24 dev eth0")
        sh(f"{inside} ip link set eth0 up")
        sh(f"{inside} ip link set lo up")
        hosts = shared / f"hosts-{number}"
        hosts.write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        prepare = (
            f"hostname {self.name}; mount --make-rprivate /; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /dev/shm; "
            f"mount --bind {hosts} /etc/hosts; mount -t proc proc /proc; exec sleep infinity"
        )
        self._init = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.name,
                "unshare",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
            ]
            + ["sh", "-c", prepare]
        )
        self._pid = self._first_process()

    def _first_process(self) -> int:
        for _ in range(100):
            children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
            if children and "sleep" in Path(f"/proc/{children[0]}/cmdline").read_text():
                return int(children[0])
            time.sleep(0.1)
        raise AssertionError(f"{self.name} does not start")

    def command(self, command: str) -> list[str]:
        return ["nsenter", "-t", str(self._pid), "-n", "-m", "-p", "-u", "-i", "sh", "-c", command]

    def run(self, command: str) -> str:
        found = subprocess.run(self.command(command), capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
        return found.stdout

    def join(self, cpus: int, head: "Machine | None" = None) -> None:
        """Start Ray, as the head or as a node of one."""
        where = (
            f"--address={head.address}:6379"
            if head
            else f"--head --port=6379 --dashboard-host={self.address} --dashboard-port=8265"
        )
        self.run(f"{BIN}/ray start {where} --node-ip-address={self.address} --num-cpus={cpus} --disable-usage-stats")

    def workers(self) -> int:
        found = subprocess.run(self.command("ps -eo args"), capture_output=True, text=True).stdout
        return sum(line.startswith("ray::RayTrainWorker") for line in found.splitlines())

    def switch_off(self) -> None:
        """End all processes at once, and the network."""
        self._init.kill()
        self._init.wait()
        subprocess.run(
            ["ip", "link", "del", f"rm{self.number}"], check=False
        )  # else it stays as long as the name space
        sh(f"ip netns del {self.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4000, help="rows of each file")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    active = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    os.environ |= {"RAY_worker_niceness": "0", **active, **token}
    machines: list[Machine] = []
    sh(f"ip link add {BRIDGE} type bridge && ip addr add {NET}.254/24 dev {BRIDGE} && ip link set {BRIDGE} up")
    try:
        with tempfile.TemporaryDirectory(prefix="machines-", dir="/var/tmp") as shared:
            print(json.dumps(scenario(Path(shared), machines, options)))
    finally:
        for machine in machines:
            machine.switch_off()
        sh(f"ip link del {BRIDGE}")


def scenario(shared: Path, machines: list[Machine], options: argparse.Namespace) -> dict:
    config = write_elastic_run(shared, "far", options.files, options.rows, options.epochs)

    def machine(number: int, cpus: int) -> Machine:
        machines.append(Machine(number, shared))
        machines[-1].join(cpus, machines[0] if number > 1 else None)
        return machines[-1]

    head, second, _ = machine(1, 1), machine(2, 2), machine(3, 1)
    log = shared / "log"
    submit = [
        str(BIN / "raymtl"),
        "submit",
        "train",
        "--address",
        f"http://{head.address}:8265",
        "--config",
        str(config),
    ]
    began = time.monotonic()
    with log.open("wb") as out:
        client = subprocess.Popen(submit, stdout=out, stderr=subprocess.STDOUT, cwd=shared)
    events: list[tuple[float, str]] = []
    metrics = shared / "runs" / "far" / "metrics.jsonl"

    def rows() -> int:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return max((json.loads(line).get("rows", 0) for line in lines if line.endswith("}")), default=0)

    def wait_for(what: str, condition: Callable[[], bool], longest_s: float = 300) -> None:
        until = time.monotonic() + longest_s
        while not condition():
            assert client.poll() is None, f"{what}: the job ended\n{log.read_text()[-3000:]}"
            assert time.monotonic() < until, f"{what}: not within {longest_s} s\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        events.append((round(time.monotonic() - began, 1), what))
        print(events[-1], file=sys.stderr, flush=True)

    wait_for("training on three machines", lambda: rows() > options.rows)
    before = [m.workers() for m in machines]
    machines.remove(second)
    second.switch_off()
    wait_for("one is switched off, training goes on", lambda: "rows trained, with 2 workers" in log.read_text())
    fourth = machine(4, 2)
    wait_for(
        "another joined and trains", lambda: "rows trained, with 4 workers" in log.read_text() and fourth.workers() == 2
    )
    code = client.wait(timeout=900)
    result = json.loads((shared / "runs" / "far" / "result.json").read_text())
    return {
        "submitted": shlex.join(["raymtl", *submit[1:-1], "config.yaml"]),
        "exit_code": code,
        "rows_of_the_input": options.files * options.rows * options.epochs,
        "rows_trained": result["rows_trained"],
        "rows_left_out": result["rows_left_out"],
        "starts": result["starts"],
        "workers_per_machine_before": before,
        "workers_at_the_end": result["workers"],
        "events": [*events, (round(time.monotonic() - began, 1), "ended")],
    }


if __name__ == "__main__":
    main()
