"""Random environments: every command that starts no Ray ends with a known exit code, in time and without a traceback.

python -m tests.benchmarks.config.environments [--runs 200] [--first 0] [--only SEED]

Each run draws a command and about three oddities: variables, a terminal or closed streams, limits, the current folder. Prints the
runs that went wrong, and the counts by exit code; the exit status is 1 if any went wrong.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.helpers.terminal import RAYMTL, ROOT, Terminal, clean_environment

LIMIT_S = 120
CODES = {0, 64, 65, 66, 69, 70, 71, 73, 74, 75, 141}
"""141: the reader of the output has gone."""
VARIABLES: list[dict[str, str | None]] = [
    {"HOME": None, "USER": None, "LOGNAME": None},
    {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "MPLCONFIGDIR": "/proc/nowhere"},
    {"HOME": ""},
    {"TMPDIR": "/proc/none"},
    {"TMPDIR": "relative"},
    {"TMPDIR": "/tmp/" + "a" * 90},
    {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LANG": "tr_TR.UTF-8", "LC_ALL": "xx_YY.nonsense"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "utf-16"},
    {"COLUMNS": "1"},
    {"COLUMNS": "many", "LINES": "-3"},
    {"TERM": "dumb"},
    {"TERM": "no-such-terminal"},
    {"TERM": None},
    {"NO_COLOR": "1", "FORCE_COLOR": "1"},
    {"TZ": "Not/A/Zone"},
    {"TZ": "Pacific/Chatham"},
    {"PYTHONWARNINGS": "error"},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONHASHSEED": "7", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    {"PYTHONFAULTHANDLER": "1", "PYTHONDEVMODE": "1"},
    {"OMP_NUM_THREADS": "lots", "MKL_NUM_THREADS": "-1"},
    {"RAYMTL_LOG": "json"},
    {"RAYMTL_LOG": "xml"},
    {"RAY_ADDRESS": "http://127.0.0.1:8265"},
    {"RAY_ADDRESS": "nonsense"},
    {"RAY_TMPDIR": "/proc/none", "RAY_worker_niceness": "x"},
    {"http_proxy": "http://127.0.0.1:1", "https_proxy": "nonsense", "AWS_REGION": "nowhere"},
    {"MPLBACKEND": "TkAgg"},
    {"PATH": ""},
    {"CUDA_VISIBLE_DEVICES": "7"},
]


def limits(chosen: list[str]) -> Callable[[], None]:
    """What the process does to itself before it starts."""

    def apply() -> None:
        if "few files" in chosen:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        if "umask" in chosen:
            os.umask(0o777)
        if "no core" in chosen:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if "gone folder" in chosen:
            gone = tempfile.mkdtemp()
            os.chdir(gone)
            os.rmdir(gone)
        if "nice" in chosen:
            os.nice(5)
        for number, name in enumerate(("no stdin", "no stdout", "no stderr")):
            if name in chosen:
                os.close(number)

    return apply


SHELL = ["few files", "umask", "no core", "gone folder", "nice", "no stdin", "no stdout", "no stderr"]


def drawn(seed: int, place: Path) -> tuple[list[str], dict[str, str], list[str], str]:
    """A command, its environment, what is done to the process, and where its output goes."""
    draw = random.Random(seed)
    conf, new = f"{place}/logs/config.yaml", f"{place}/new{seed}"
    space = "tune={space: {train.dense_optimizer.lr: {log_uniform: [0.0001, 0.01]}}}"
    command = draw.choice(
        [
            ["config", "presets"],
            ["convert"],
            ["plan", "-c", conf, "--gpus", "2"],
            ["train", "-c", conf, "--set", f"output={new}", "--dry-run"],
            ["tune", "-c", conf, "--set", f"output={new}", "--set", space, "--dry-run"],
            ["daily", "-c", conf, "--set", f"daily.store={new}", "--date", "2026-01-02", "--dry-run"],
            ["versions", "list", "--store", f"{place}/store"],
            ["report", f"{place}/run", "--out", f"{place}/report{seed}.html"],
            ["synth", new, "--days", "1", "--rows-per-day", "200"],
            ["check", "-c", conf],
            ["--help"],
        ]
    )
    env = clean_environment()
    for change in draw.sample(VARIABLES, draw.randint(0, 4)):
        for name, value in change.items():
            if value is None:
                env.pop(name, None)
            else:
                env[name] = value
    odd = draw.sample(SHELL, draw.choice([0, 0, 1, 2]))
    return command, env, odd, draw.choice(["pipe", "pipe", "terminal", "closed pipe", "full disk"])


def tried(seed: int, place: Path) -> tuple[str, str]:
    """The exit code of a run, and what is wrong with it."""
    command, env, odd, output = drawn(seed, place)
    if output == "terminal" and not odd:
        with Terminal([*RAYMTL, *command], columns=80, env=env) as terminal:
            code = terminal.wait(LIMIT_S)
        said = terminal.text
    else:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE}
        if output == "full disk":
            streams = {"stdout": os.open("/dev/full", os.O_WRONLY)}
        process = subprocess.Popen(
            [*RAYMTL, *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            cwd=ROOT,
            preexec_fn=limits(odd),
            start_new_session=True,
            **streams,
        )
        if output == "full disk":
            os.close(streams["stdout"])
        if output == "closed pipe":
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            return "none", f"still running after {LIMIT_S} s"
        code, said = process.returncode, ((out or b"") + err).decode(errors="replace")
    if "Traceback (most recent" in said or "Exception ignored" in said:
        return str(code), f"a traceback: {said[-1500:]}"
    if code not in CODES:
        return str(code), f"exit code {code}: {said[-800:]}"
    return str(code), ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--only", type=int, help="show the run of this seed")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="raymtl-env-"))
    try:
        synth = [*RAYMTL, "synth", f"{place}/logs", "--days", "2", "--rows-per-day", "1000"]
        subprocess.run(synth, check=True, capture_output=True, cwd=ROOT)
        subprocess.run(
            [sys.executable, "-m", "tests.helpers.fake_run", f"{place}/run"], check=True, capture_output=True, cwd=ROOT
        )
        if options.only is not None:
            command, env, odd, output = drawn(options.only, place)
            changed = {k: v for k, v in env.items() if os.environ.get(k) != v}
            print(command, changed, odd, output, *tried(options.only, place), sep="\n")
            return 0
        codes: Counter[str] = Counter()
        began, wrong = time.monotonic(), 0
        for seed in range(options.first, options.first + options.runs):
            code, fault = tried(seed, place)
            codes[code] += 1
            if fault:
                wrong += 1
                command, _, odd, output = drawn(seed, place)
                print(f"{seed}: {' '.join(command)} {odd} {output}: {fault}", flush=True)
        print(json.dumps({"codes": codes, "wrong": wrong, "seconds": round(time.monotonic() - began)}))
        return int(wrong > 0)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
