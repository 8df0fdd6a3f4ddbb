"""The whole way on one machine, in a few minutes: logs, check, training on two workers, evaluation, report (`make demo`)."""

import subprocess
import sys
from pathlib import Path

from raymtl.cli import console

OUT = Path("demo").absolute()
LOGS = OUT / "logs"
RUN = OUT / "runs" / "demo"
STEPS = {
    "1/4 synthetic logs: three days to train on, one to evaluate on": [
        "synth", str(LOGS), "--days", "4", "--rows-per-day", "150000",
    ],
    "2/4 check them against the data contract": [
        "check", "--config", str(LOGS / "config.yaml"),
    ],
    "3/4 train MMoE on two workers with sharded tables, then evaluate": [
        "train", "--config", str(LOGS / "config.yaml"), "--workers", "2", "--name", "demo", "--set", f"output={OUT / 'runs'}",
    ],
    "4/4 write the report": [
        "report", str(RUN),
    ],
}  # fmt: skip


def main() -> int:
    """Run the steps; the first one that fails ends the demo with its exit code."""
    for title, arguments in STEPS.items():
        console.rule(f"[bold]{title}", align="left")
        console.print(f"[dim]raymtl {' '.join(arguments)}[/]", soft_wrap=True)
        # each step a process of its own, as on the command line: Ray starts with the CPUs that the step asks for
        if code := subprocess.call([sys.executable, "-m", "raymtl.cli", *arguments]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
