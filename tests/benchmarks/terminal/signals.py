"""Every long command, interrupted at five moments by each signal: what it says, its code, what it leaves.

    .venv/bin/python -m tests.benchmarks.terminal.signals [--commands train,score] [--out FILE]

Prints one table: `ok` with the seconds to the end, or the faults; `–` where the command ended before that moment.
"""

import argparse
import itertools
import tempfile
from pathlib import Path

from tests.helpers.interrupt import MOMENTS, interrupt, small_logs
from tests.helpers.terminal import RAYMTL, Terminal

SIGNALS = ("INT", "TERM", "HUP", "INT INT", "TERM INT")
GRACE_S = 20
FRESH = "{n}"
"""In an argument: another number for each try, for work that would resume and be done."""
_FRESH = itertools.count()


def commands(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Each command with its arguments and how one sees that it is at work."""
    config = small_logs(folder / "logs", rows_per_day=150_000)
    conf, output = ["--config", config], ["--set", f"output={folder / 'runs'}"]
    one_by_one = ["--set", "train.log_every_steps=1", "--set", "train.batch_size=512"]
    store = ["--set", f"daily.store={folder / 'store'}", "--set", "daily.bootstrap_days=2"]
    finished, published = ["train", *conf, *output, "--name", "finished"], folder / "published"
    for done in (finished, ["versions", "publish", str(folder / "runs" / "finished"), "--store", str(published)]):
        with Terminal([*RAYMTL, *done], columns=200) as terminal:
            assert terminal.wait(300) == 0, terminal.text
    space = "tune={space: {train.dense_optimizer.lr: {log_uniform: [0.0001, 0.01]}}, max_trials: 4, repeats: 0}"
    counted = r"[1-9][\d,]* of "
    return {
        "synth": (["synth", str(folder / "more"), "--days", "30", "--rows-per-day", "300000"], counted),
        "check": (["check", *conf], counted),
        "train --dry-run": (["train", *conf, *output, "--dry-run"], "nothing is"),
        "train": (["train", *conf, *output, *one_by_one, "--name", "stopped", "--workers", "2"], "data-wait"),
        "evaluate": (["evaluate", str(folder / "runs" / "finished")], "process RayTrainWorker"),
        "daily": (["daily", *conf, *store, *one_by_one, "--date", "2026-01-02"], "data-wait"),
        "tune": (["tune", *conf, *output, "--set", space], "process run_trial"),
        "score": (
            ["score", "--version", str(published), "--data", str(folder / "logs"), "--out", f"{folder}/scores{FRESH}"],
            counted,
        ),
        "publish": (
            ["versions", "publish", str(folder / "runs" / "finished"), "--store", str(folder / "other")],
            "published",
        ),
    }


def main() -> None:
    """Run the matrix."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--commands", default="", help="comma-separated; default: all")
    parser.add_argument("--signals", default=",".join(SIGNALS), help="comma-separated; INT is typed as Ctrl-C")
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    lines = [f"| command | signal | {' | '.join(MOMENTS)} |", "|---" * (2 + len(MOMENTS)) + "|"]
    print(*lines, sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="signals") as scratch:
        known = commands(Path(scratch))
        for name in filter(None, options.commands.split(",")) if options.commands else known:
            words, at_work = known[name]
            for signals in options.signals.split(","):
                cells = [_cell(words, moment, signals, at_work) for moment in MOMENTS]
                lines.append(f"| {name} | {signals} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


def _cell(words: list[str], moment: str, signals: str, at_work: str) -> str:
    fresh = str(next(_FRESH))
    outcome = interrupt([word.replace(FRESH, fresh) for word in words], moment, signals, at_work)
    if outcome is None:
        return "–"
    faults = outcome.faults(signals, GRACE_S if signals == "TERM" else 0)
    return "; ".join(faults) if faults else f"ok {outcome.seconds:.1f} s"


if __name__ == "__main__":
    main()
