"""Whole trainings of raymtl and of torch-rechub with its parquet loader, in turn, on the census data (docs/performance.md).

    python -m tests.benchmarks.training.rechub --source DIR_WITH_THE_CENSUS_FILES [--python VENV/bin/python] [--rounds 3]

torch-rechub needs an environment of its own: this script makes one with pip, unless `--python` names one. Each round trains
torch-rechub in fp32, `raymtl train` in fp32, and `raymtl train` with the default precision: `mmoe` with 4 experts 128-64,
towers of 32, embeddings of 16, batch 2,048, one worker. Rows/s count from the first step to the last one, start-up aside.
torch-rechub reads IDs that were encoded before, raymtl the strings of the logs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymtl.config.load import load_config
from raymtl.data.convert.registry import convert
from tests.benchmarks.training import stages
from tests.benchmarks.training.census import MODELS

PACKAGE = "torch-rechub==0.9.0"


def make_environment(folder: Path) -> str:
    """A virtual environment with torch-rechub and the torch and pyarrow of this one; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    same = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "pyarrow")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE, *same], check=True)
    return python


def encode(path: str, folder: Path) -> dict[str, Any]:
    """Write the training rows for torch-rechub, strings as numbers; returns its description of them."""
    config = load_config(path)
    files = sorted(Path(config.data.path).rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    sizes, columns = {}, {}
    for name, feature in config.features.items():
        column = table[name].combine_chunks()
        if feature.kind == "dense":
            columns[name] = column.cast(pa.float32())
            continue
        codes = column.cast(pa.string()).dictionary_encode(null_encoding="encode")
        sizes[name], columns[name] = len(codes.dictionary), codes.indices
    for task in config.tasks:
        columns[task] = pc.fill_null(table[task].cast(pa.float32()), 0.0)
    encoded = pa.table(columns)
    rows = -(-len(encoded) // len(files))
    for n in range(len(files)):
        pq.write_table(encoded.slice(n * rows, rows), folder / f"part-{n}.parquet")
    return {
        "files": [str(folder / f"part-{n}.parquet") for n in range(len(files))],
        "sizes": sizes,
        "dense": [name for name in columns if name in config.features and name not in sizes],
        "tasks": list(config.tasks),
    }


def rechub(python: str, data: dict[str, Any], epochs: int, threads: int) -> float:
    """Rows/s of one training with torch-rechub."""
    job = json.dumps({**data, "epochs": epochs, "threads": threads, "batch_size": 2048})
    program = Path(__file__).with_name("rechub_train.py")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
    done = subprocess.run([python, str(program), job], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])["rows_per_s"]


def raymtl(path: str, root: Path, name: str, sets: list[str]) -> tuple[float, float]:
    """Rows/s of one `raymtl train`, and its first window over its last one."""
    command = [sys.executable, "-m", "raymtl", "train", "--config", path]
    for value in (*sets, f"output={root}", f"name={name}"):
        command += ["--set", value]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    found = stages.windows(root / name)
    return stages.whole(found), found[0]["rows_per_s"] / found[-1]["rows_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder with the census files")
    parser.add_argument("--python", help="Python of an environment with torch-rechub")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        python = options.python or make_environment(root / "environment")
        path = convert("census", options.source, folder)
        data = encode(path, root)
        sets = [
            *MODELS["mmoe"],
            "data.eval=null",
            "train.batch_size=2048",
            f"train.threads_per_worker={options.threads}",
            f"train.epochs={options.epochs}",
            *options.set,
        ]
        found: dict[str, list[float]] = {}
        for n in range(options.rounds):
            theirs = rechub(python, data, options.epochs, options.threads)
            round_: dict[str, float] = {"rechub": theirs}
            for precision in ("fp32", "auto"):
                own, first = raymtl(path, root / "runs", f"{precision}-{n}", [*sets, f"train.precision={precision}"])
                round_ |= {precision: own, f"{precision}/rechub": own / theirs, f"{precision} first/last window": first}
            for key, value in round_.items():
                found.setdefault(key, []).append(round(value, 3 if "/" in key else None))
            print(json.dumps({key: values[-1] for key, values in found.items()}), flush=True)
    medians = {key: statistics.median(values) for key, values in found.items()}
    print(json.dumps({"medians": medians, **stages.machine()}, indent=1))


if __name__ == "__main__":
    main()
