"""The complete workflow on one machine, in a few minutes: logs, check, training on two workers, evaluation, report; then a
first version for the daily job, and three days on it."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raymtl import signals
from raymtl.errors import ConfigError, DataError, StorageError
from raymtl.storage.paths import absolute

_MARKER = "_demo.txt"


@dataclass(frozen=True)
class Demo:
    """The demo in one folder, in which a stopped one resumes."""

    folder: str
    """An absolute path."""

    @classmethod
    def open(cls, path: str) -> "Demo":
        """Create the folder, or take that of an earlier demo. Raises DataError if it holds anything else."""
        if "://" in path:
            raise ConfigError(f"--out is `{path}`, a URL; name a folder of this machine")
        folder = Path(absolute(path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = sorted(os.listdir(folder))
            if found and _MARKER not in found:
                raise DataError(
                    f"`{folder}` is not empty (`{found[0]}`) and not of an earlier demo; delete it, or choose another folder "
                    "with --out"
                )
            (folder / _MARKER).write_text(
                "Written by `raymtl demo`, which resumes here; delete this folder at any time.\n"
            )
        except OSError as error:
            raise StorageError(
                f"the folder `{folder}` of the demo cannot be written ({error.strerror}); choose another folder with --out"
            ) from error
        return cls(str(folder))

    @property
    def steps(self) -> dict[str, list[str]]:
        """Command lines of raymtl, by title."""
        logs, runs, store = (f"{self.folder}/{name}" for name in ("logs", "runs", "versions"))
        config = ["--config", f"{logs}/config.yaml"]
        days = [*config, "--workers", "2", "--set", f"daily.store={store}", "--set", "daily.bootstrap_days=3"]
        return {
            "synthetic logs of six days, in which tastes drift and IDs come and go": [
                *("synth", logs, "--days", "6", "--rows-per-day", "150000", "--set", "drift=0.1"),
            ],
            "check them against the data contract": ["check", *config],
            "train MMoE on three days with two workers, then evaluate on the fourth": [
                *("train", *config, "--workers", "2", "--name", "demo", "--set", f"output={runs}"),
                *("--set", "data.train={start: 2026-01-01, end: 2026-01-03}"),
                *("--set", "data.eval={start: 2026-01-04, end: 2026-01-04}"),
            ],
            "write the report": ["report", f"{runs}/demo"],
            "the daily job: train the first version on three days": ["daily", *days, "--date", "2026-01-03"],
            "the next three days: evaluate the current version on each day, then train on it and publish": [
                *("daily", *days, "--date", "2026-01-06"),
            ],
        }

    @property
    def reports(self) -> dict[str, str]:
        """The pages that the steps write, by what they show."""
        return {
            "the training": f"{self.folder}/runs/demo/report.html",
            "the daily job": f"{self.folder}/versions/days/index.html",
        }


def run_step(arguments: Sequence[str]) -> int:
    """Run a step as a process of its own, as on the command line: Ray starts with the CPUs that the step asks for."""
    # -P: import nothing from the current folder, which may hold anything, unless this process does
    safe = [] if os.getcwd() in sys.path else ["-P"]
    return signals.run_child([sys.executable, *safe, "-m", "raymtl", *arguments])
