"""The table of docs/models.md: every preset on the same synthetic logs, and on census where it fits.

python -m tests.benchmarks.models.presets [--census DIR_WITH_THE_CENSUS_FILES] [--seeds 3] [--rows-per-day 100000] [--write]

Trains in processes of one thread each, two at a time, without Ray (`training/inprocess.py`). `--write` puts the tables into
docs/models.md between its marks. Speed is in trained rows per CPU second of one thread, reading and evaluation included.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from pathlib import Path
from typing import Any

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.convert.registry import convert
from raymtl.synth.spec import SynthSpec
from raymtl.synth.write import write_logs
from tests.benchmarks.models.synth_settings import PRESET_SETTINGS
from tests.benchmarks.training.inprocess import train

ROOT = Path(__file__).parents[3]
PRESETS = [
    *("single_task", "shared_bottom", "zhihu", "mmoe", "ple", "aitm", "esmm", "esm2", "meituan", "youtube", "nfwfm"),
    *("pepnet", "dupn", "dtrn", "m2m"),
]
LABELS = ("click", "cart", "buy")
TRUTH = {"click": "p_click", "cart": "p_cart", "buy": "p_buy"}
ON_CENSUS = ("single_task", "shared_bottom", "mmoe", "ple", "nfwfm")
"""What fits two tasks without funnel, scenario, history or position."""
DAYS = 4


def synth_config(preset: str, logs: str, seed: int, task: str | None = None) -> Config:
    """The preset's file in jobs/conf on these logs, with the truth beside each label."""
    path = str(ROOT / "jobs" / "conf" / f"{preset}.yaml")
    sets = [
        *PRESET_SETTINGS,
        f"data.path={logs}",
        f"data.train={{start: 2026-01-01, end: 2026-01-0{DAYS - 1}}}",
        f"data.eval={{start: 2026-01-0{DAYS}, end: 2026-01-0{DAYS}}}",
        f"train.seed={seed}",
        f"data.shuffle.seed={seed}",
    ]
    plain = load_config(path, sets)
    for name, entry in plain.tasks.items():
        column = entry.label_column(name)
        if column in TRUTH and entry.given is None:
            sets.append(f"tasks.{name}.truth={TRUTH[column]}")
    return load_config(path, [*sets, *([f"tasks_subset=[{task}]"] if task else [])])


def one(case: dict[str, Any]) -> dict[str, Any]:
    """Train one case; for the pool."""
    if case["data"] == "synth":
        config = synth_config(case["preset"], case["path"], case["seed"], case["task"])
    else:
        subset = [f"tasks_subset=[{case['task']}]"] if case["task"] else []
        model = f"model={{preset: {case['preset']}}}"
        config = load_config(
            case["path"], [model, f"train.seed={case['seed']}", f"data.shuffle.seed={case['seed']}", *subset]
        )
    found = train(config)
    aucs, best = {}, {}
    for name, metrics in found["metrics"]["tasks"].items():
        task = config.tasks.get(name)
        if metrics.get("auc") is None:
            continue
        key = name if case["data"] == "census" or task is None else task.label_column(name)
        if task is not None and task.given is not None:
            continue  # the conversion on clicked rows is another question than the order on all
        aucs[key] = metrics["auc"]
        best[key] = metrics.get("truth_auc")
    keep = ("rows", "rows_per_cpu_s", "dense_parameters")
    return {**case, "auc": aucs, "best": best, **{k: found[k] for k in keep}}


def cases(data: str, path: str, preset: str, seeds: int, tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    alone = tasks if preset == "single_task" else (None,)
    return [{"data": data, "path": path, "preset": preset, "seed": s, "task": t} for t in alone for s in range(seeds)]


def table(found: list[dict[str, Any]], data: str, columns: tuple[str, ...]) -> str:
    """The markdown table of one data set."""
    rows = [
        f"| preset | {' | '.join(columns)} | dense parameters | rows per CPU second |",
        "|---" * (len(columns) + 3) + "|",
    ]
    mine = [f for f in found if f["data"] == data]
    for preset in dict.fromkeys(f["preset"] for f in mine):
        runs = [f for f in mine if f["preset"] == preset]
        cells = []
        for column in columns:
            values = [f["auc"][column] for f in runs if column in f["auc"]]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}" if values else "–")
        size = max(f["dense_parameters"] for f in runs)
        speed = statistics.median(f["rows_per_cpu_s"] for f in runs)
        rows.append(f"| `{preset}` | {' | '.join(cells)} | {size:,} | {speed:,.0f} |")
    best = {c: max((f["best"].get(c) or 0 for f in mine), default=0) for c in columns}
    if any(best.values()):
        rows.append(f"| best achievable | {' | '.join(f'{best[c]:.4f}' for c in columns)} | | |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--census")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows-per-day", type=int, default=100_000)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec = SynthSpec(days=DAYS, rows_per_day=options.rows_per_day, behaviours=True, engagement=True)
        write_logs(spec, f"{folder}/logs")
        # youtube's position is a feature of the position tower: the same column, the same logs
        work = [
            c for p in options.presets.split(",") for c in cases("synth", f"{folder}/logs", p, options.seeds, LABELS)
        ]
        if options.census:
            path = convert("census", options.census, f"{folder}/census")
            both = ("income", "never_married")
            work += [c for p in ON_CENSUS for c in cases("census", path, p, options.seeds, both)]
        with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
            found = []
            for answer in pool.imap(one, work, chunksize=1):
                found.append(answer)
                print(json.dumps(answer), flush=True)
    parts = {"synth": table(found, "synth", LABELS)}
    if options.census:
        parts["census"] = table(found, "census", ("income", "never_married"))
    for name, text in parts.items():
        print(f"\n{name}\n{text}")
    if options.write:
        page = ROOT / "docs" / "models.md"
        text = page.read_text()
        for name, part in parts.items():
            start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            before, rest = text.split(start)
            text = f"{before}{start}\n{part}\n{end}{rest.split(end)[1]}"
        page.write_text(text)


if __name__ == "__main__":
    main()
