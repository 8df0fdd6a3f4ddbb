"""The complete workflow on one machine, in a few minutes (`make demo`): logs, check, training on two workers, evaluation,
report; then a first version for the daily job, and three days on it."""

import signal
import subprocess
import sys
from pathlib import Path

from raymtl.telemetry.logs import terminal

console = terminal()
OUT = Path("demo").absolute()
LOGS = OUT / "logs"
RUN = OUT / "runs" / "demo"
CONFIG = str(LOGS / "config.yaml")
STORE = OUT / "versions"
DAYS = ["--config", CONFIG, "--workers", "2", "--set", f"daily.store={STORE}", "--set", "daily.bootstrap_days=3"]
STEPS = {
    "1/6 synthetic logs of six days, in which tastes drift and IDs come and go": [
        "synth", str(LOGS), "--days", "6", "--rows-per-day", "150000", "--set", "drift=0.1",
    ],
    "2/6 check them against the data contract": [
        "check", "--config", CONFIG,
    ],
    "3/6 train MMoE on three days with two workers, then evaluate on the fourth": [
        "train", "--config", CONFIG, "--workers", "2", "--name", "demo", "--set", f"output={OUT / 'runs'}",
        "--set", "data.train={start: 2026-01-01, end: 2026-01-03}", "--set", "data.eval={start: 2026-01-04, end: 2026-01-04}",
    ],
    "4/6 write the report": [
        "report", str(RUN),
    ],
    "5/6 the daily job: train the first version on three days": [
        "daily", *DAYS, "--date", "2026-01-03",
    ],
    "6/6 the next three days: evaluate the current version on each day, then train on it and publish": [
        "daily", *DAYS, "--date", "2026-01-06",
    ],
}  # fmt: skip


def main() -> int:
    """Run the steps; the first one that fails ends the demo with its exit code."""
    for title, arguments in STEPS.items():
        console.rule(f"[bold]{title}", align="left")
        console.print(f"[dim]raymtl {' '.join(arguments)}[/]", soft_wrap=True)
        if code := _run(arguments):
            return code
    return 0


def _run(arguments: list[str]) -> int:
    """Run a step as a process of its own, as on the command line: Ray starts with the CPUs that the step asks for."""
    with subprocess.Popen([sys.executable, "-m", "raymtl", *arguments]) as step:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(
                number, lambda *_: None
            )  # the terminal sends them to the step too, which says what there is to say
        signal.signal(signal.SIGTERM, lambda *_: step.terminate())
        return step.wait()


if __name__ == "__main__":
    sys.exit(main())
