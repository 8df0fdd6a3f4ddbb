"""Random files out of every encoding, type, container and name: read as pyarrow reads them, or refused in one sentence.

    python -m tests.benchmarks.data.fuzz_files --files 2000

Each data set of a few files is checked as `raymtl check` does and read as training does, in this process: both must accept
it or both refuse it, and the values of what is read must be pyarrow's, with IDs hashed one by one. Row counts are compared
with pyarrow's own and with DuckDB's, if that is installed. The first `--trained` data sets are also checked and trained on
in processes of their own, which must end alike. Prints the data sets and files by outcome; the exit status is 1 if any
failed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from raymtl.config.yamltext import dump_yaml
from raymtl.data.units import plan_inputs
from tests.helpers.random_files import RandomDataSet, try_data_set, write_data_set

try:
    import duckdb
except ImportError:
    duckdb = None


def compare_counts(made: RandomDataSet, counts: Counter[str]) -> None:
    """Compare the rows of the plan with what others count."""
    rows = plan_inputs(made.config, ["train"])["train"].rows
    by_pyarrow = sum(ds.dataset(path, format="parquet").count_rows() for path in made.paths)
    assert rows == by_pyarrow, f"{rows} rows, pyarrow counts {by_pyarrow}"
    counts["rows"] += rows
    if duckdb is not None:
        try:
            (by_duckdb,) = duckdb.execute(
                "select count(*) from read_parquet($1, union_by_name=true)", [made.paths]
            ).fetchone()
        except duckdb.Error as error:
            counts[f"DuckDB refuses: {str(error).split(':')[0]}"] += 1
            return
        assert rows == by_duckdb, f"{rows} rows, DuckDB counts {by_duckdb}"
        counts["rows that DuckDB counts too"] += rows


def compare_commands(made: RandomDataSet, root: Path, refused: str | None) -> None:
    """Check and train in processes, with the exit codes of data that is read or refused."""
    config = made.config.model_dump(mode="json", exclude_unset=True)
    config |= {"output": str(root / "runs"), "tables": {name: {"rows": 1000} for name in config["tables"]}}
    (root / "config.yaml").write_text(dump_yaml(config))
    for name in ("check", "train"):
        command = [sys.executable, "-m", "raymtl", name, "-c", str(root / "config.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == (65 if refused else 0), f"{name}: exit code {done.returncode}: {said[-2000:]}"
        assert "Traceback" not in said, f"{name}: {said[-2000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", type=int, default=0)
    args = parser.parse_args()
    outcomes: Counter[str] = Counter()
    files: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    failures: list[str] = []
    began, number = time.monotonic(), 0
    while files.total() < args.files:
        root = Path(tempfile.mkdtemp(prefix="raymtl-fuzz-"))
        random = np.random.default_rng([args.seed, number])
        made = write_data_set(root, random, files=int(random.integers(2, 7)))
        try:
            refused = try_data_set(made)
            outcome = "read" if refused is None else f"refused: {refused}"
            if refused is None:
                compare_counts(made, counts)
            if number < args.trained:
                compare_commands(made, root, refused)
                counts["data sets checked and trained on in processes"] += 1
        except Exception as error:
            outcome = f"FAILED: {type(error).__name__}"
            failures.append(f"seed [{args.seed}, {number}]: {''.join(traceback.format_exception(error)[-3:])}")
        outcomes[outcome] += 1
        files[outcome] += len(made.paths)
        shutil.rmtree(root)
        number += 1
    print("data sets  files  outcome")
    for outcome, times in outcomes.most_common():
        print(f"{times:9}  {files[outcome]:5}  {outcome}")
    for name, count in counts.items():
        print(f"{count} {name}")
    print(f"{files.total()} files in {outcomes.total()} data sets, {time.monotonic() - began:.0f} s")
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
