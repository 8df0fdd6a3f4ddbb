"""Ten planted faults, one after another in a copy of the checkout, and whether the tests meant to find each fail.

python -m tests.benchmarks.faults.planted [NAME …]

Prints a line for each fault and, for one that is not found, the end of what pytest said; the exit code is the number not found.
First the same tests run without a fault: they must pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Fault:
    """A wrong piece of the product."""

    file: str
    right: str
    """Text that the file has once."""
    wrong: str
    tests: tuple[str, ...]
    """What finds it: a file, and what limits it to some of its tests."""


RUNS = "tests/training/test_driver.py"
FAULTS = {
    "a resumed run trains on one unit twice": Fault(
        "raymtl/training/trainer.py",
        "first = progress.epoch * units + progress.units_done",
        "first = max(progress.epoch * units + progress.units_done - 1, 0)",
        (RUNS, "-k", "killed_node"),
    ),
    "a recovered run keeps the lines of the steps it lost": Fault(
        "raymtl/training/runlog.py", "if step <= resume_step]", "]", (RUNS, "-k", "killed_node")
    ),
    "a signal is left to Ray once it has started": Fault(
        "raymtl/signals.py",
        "        keeper.join()\n        _handle()\n",
        "        keeper.join()\n",
        ("tests/terminal/test_signals.py", "-k", "three_times or no_lease"),
    ),
    "a stopped job leaves its lease": Fault(
        "raymtl/model_store/lease.py",
        "            self._store.remove(_claim_name(self._claim.name))",
        "            pass",
        ("tests/terminal/test_signals.py", "-k", "no_lease"),
    ),
    "a version is published without its ID maps": Fault(
        "raymtl/model_store/publish_run.py", "group, maps=maps)", "group)", ("tests/training/test_map_tables.py",)
    ),
    "the progress line lacks a figure": Fault(
        "raymtl/reports/progress.py",
        "data-wait {record['data_wait']:.0%}  \"\n",
        '"\n',
        ("tests/terminal/test_progress.py", "-k", "training_is_painted"),
    ),
    "the rows of a step depend on the number of workers": Fault(
        "raymtl/data/dealing.py",
        "rows_before + rows) % step_rows % members",
        "rows_before + rows) % members",
        ("tests/data/test_dealing.py",),
    ),
    "a trial of a search shuffles otherwise than a run": Fault(
        "raymtl/tuning/inprocess_trial.py",
        "row_seed(job.config, source.evaluation))",
        "row_seed(job.config, source.evaluation) + 1)",
        ("tests/tuning/test_tune_run.py", "-k", "share_data"),
    ),
    "scoring takes the rows of two users for one's": Fault(
        "raymtl/serving/rows.py",
        "            new[1:] |= codes[1:] != codes[:-1]\n",
        "",
        ("tests/serving/test_rules.py",),
    ),
    "the Python API prints though it was told to be quiet": Fault(
        "raymtl/api.py",
        "    with _training_lines(progress) as on_event:\n        result = driver.train",
        "    with _training_lines(True) as on_event:\n        result = driver.train",
        ("tests/api/test_python_docs.py",),
    ),
}


def passes(copy: Path, tests: list[str]) -> tuple[bool, str]:
    """Whether tests of the copy pass, and what pytest said."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 5: no test is selected
    return done.returncode == 0, done.stdout


def main() -> int:
    """Plant the faults whose names have one of the arguments, or all."""
    chosen = {n: f for n, f in FAULTS.items() if not sys.argv[1:] or any(word in n for word in sys.argv[1:])}
    missed = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "raymtl"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "site", ".*cache*", "__pycache__"))
        for tests in {fault.tests for fault in chosen.values()}:
            good, said = passes(copy, list(tests))
            assert good, f"{tests} fail without a fault:\n{said[-3000:]}"
        for name, fault in chosen.items():
            file = copy / fault.file
            text = file.read_text()
            assert text.count(fault.right) == 1, f"{fault.file} has {text.count(fault.right)} times: {fault.right}"
            file.write_text(text.replace(fault.right, fault.wrong))
            began = time.monotonic()
            good, said = passes(copy, list(fault.tests))
            missed += good
            print(f"{'NOT found' if good else 'found'} in {time.monotonic() - began:.0f} s: {name}", flush=True)
            if good:
                print(said[-1000:])
            file.write_text(text)
    print(f"{len(chosen) - missed} of {len(chosen)} found")
    return missed


if __name__ == "__main__":
    sys.exit(main())
