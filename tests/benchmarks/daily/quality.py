"""The daily job against a frozen model and one trained from scratch on all days (docs/results.md).

    python -m tests.benchmarks.daily.quality [--rows-per-day 200000] [--bootstrap 4] [--days 6] [--drift 0.1]

On drifting synthetic logs: the next-day AUC of the daily job's versions, of its first version kept as it is, and on the last day
of a model trained in one pass over all the days before. Times are those of the training alone, and of the whole commands.
"""

import argparse
import datetime as dt
import json
import tempfile
import time

from raymtl.config.load import load_config, section_from
from raymtl.daily.day import DailyRequest
from raymtl.daily.runner import run_daily
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from raymtl.training import driver
from tests.benchmarks.models.synth_settings import SETTINGS


def aucs(metrics: dict) -> dict[str, float]:
    return {task: round(m["auc"], 4) for task, m in metrics["eval"].items() if m.get("auc") is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows-per-day", type=int, default=200_000)
    parser.add_argument("--bootstrap", type=int, default=4)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--drift", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-daily-") as folder:
        days = options.bootstrap + options.days
        values = {"rows_per_day": options.rows_per_day, "days": days, "drift": options.drift}
        summary = write_logs(section_from(SynthSpec, values, [], "the logs"), f"{folder}/logs")
        base = [*SETTINGS, f"output={folder}/runs", f"train.workers={options.workers}", *options.set]
        dates = [dt.date(2026, 1, 1) + dt.timedelta(days=n) for n in range(days)]
        first, last = dates[options.bootstrap - 1], dates[-1]

        def window(key: str, begin: dt.date, end: dt.date) -> str:
            return f"data.{key}={{start: {begin}, end: {end}}}"

        frozen = load_config(
            summary.config, [*base, "name=frozen", window("train", dates[0], first), window("eval", last, last)]
        )
        driver.train(frozen, address="local")
        config = load_config(
            summary.config, [*base, f"daily.store={folder}/store", f"daily.bootstrap_days={options.bootstrap}"]
        )
        records = []
        seconds = []
        for day in dates[options.bootstrap - 1 :]:
            began = time.perf_counter()
            records += run_daily(config, DailyRequest(day), address="local", on_event=lambda item: None)
            seconds.append(time.perf_counter() - began)
        for record in records[1:]:
            stale = driver.evaluate(
                f"{folder}/runs/frozen",
                overrides=[window("eval", record.date, record.date)],
                checkpoint=None,
                address="local",
            )
            fresh, old = aucs(record.next_day[0].metrics), aucs(stale["metrics"])
            print(
                json.dumps(
                    {
                        "day": str(record.date),
                        "daily": fresh,
                        "frozen": old,
                        "gain": {task: round(fresh[task] - old[task], 4) for task in fresh},
                        "train_s": record.seconds["train"],
                        "seconds": record.seconds,
                        "written": record.written.kind if record.written else None,
                        "bytes": record.written.bytes if record.written else None,
                    }
                ),
                flush=True,
            )
        scratch = load_config(
            summary.config, [*base, "name=scratch", window("train", dates[0], dates[-2]), window("eval", last, last)]
        )
        began = time.perf_counter()
        result = driver.train(scratch, address="local")
        whole = time.perf_counter() - began
        there, here = aucs(result["metrics"]), aucs(records[-1].next_day[0].metrics)
        print(
            json.dumps(
                {
                    "day": str(last),
                    "scratch": there,
                    "daily_minus_scratch": {task: round(here[task] - there[task], 4) for task in here},
                    "scratch_train_s": round(result["rows_trained"] / result["rows_per_s"], 1),
                    "daily_train_s": records[-1].seconds["train"],
                    "scratch_command_s": round(whole, 1),
                    "daily_command_s": round(seconds[-1], 1),
                    "daily_states_s": records[-1].seconds,
                }
            )
        )


if __name__ == "__main__":
    main()
