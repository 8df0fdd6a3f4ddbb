"""From a folder of logs to a first AUC, without an edit: `raymtl init`, `check`, `train`, against scikit-learn's
HistGradientBoosting on the same rows.

    python -m tests.benchmarks.init.first_hour [--sets hive flat …] [--census FOLDER]

One line for each data set: minutes, the AUC of both on the task that is compared, and the columns whose use was guessed wrong.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.data.convert.census import CATEGORICAL, DENSE
from raymtl.data.convert.registry import convert
from raymtl.data.fragments import read_fragment
from raymtl.data.units import plan_input
from tests.benchmarks.init.logs import MADE, Logs
from tests.helpers.movielens_like import write_movielens_like

_MOST_CATEGORIES = 250


def raymtl(*arguments: str) -> dict[str, Any]:
    """Run a command; its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "raymtl", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(config: Config, part: str) -> pd.DataFrame:
    """The columns of the features and the labels; lists are left out."""
    plan = plan_input(config, part)
    flat = [f.column or n for n, f in config.features.items() if f.kind in ("id", "dense")]
    names = [*flat, *(t.label_column(n) for n, t in config.tasks.items())]
    fragments = [fragment for unit in plan.units for fragment in unit.fragments]
    tables = [table for f in fragments for table, _ in read_fragment(plan.root, f, names, 1_000_000)]
    found = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return found.astype(dict.fromkeys(found.select_dtypes("category"), object))


def boosted(config: Config, task: str) -> float:
    """The AUC of gradient boosting on the same rows and columns."""
    train, test = rows_of(config, "train"), rows_of(config, "eval")
    kinds = {f.column or n: f.kind for n, f in config.features.items() if f.kind in ("id", "dense")}
    inputs: list[tuple[np.ndarray, np.ndarray]] = []
    categories: list[bool] = []
    for name, kind in kinds.items():
        if kind == "dense":
            inputs.append((train[name].to_numpy(float), test[name].to_numpy(float)))
            categories.append(False)
            continue
        counts = train[name].value_counts()
        codes = {value: n for n, value in enumerate(counts.index)}
        categories.append(len(codes) <= _MOST_CATEGORIES)
        inputs.append(tuple(frame[name].map(codes).to_numpy(float) for frame in (train, test)))  # type: ignore[arg-type]
    label = config.tasks[task].label_column(task)
    seen = [frame[label].notna().to_numpy() for frame in (train, test)]
    model = HistGradientBoostingClassifier(categorical_features=categories, random_state=0)
    model.fit(np.stack([a for a, _ in inputs], 1)[seen[0]], train[label][seen[0]].astype(int))
    scores = model.predict_proba(np.stack([b for _, b in inputs], 1)[seen[1]])[:, 1]
    return float(roc_auc_score(test[label][seen[1]].astype(int), scores))


def measure(name: str, logs: Logs, scratch: Path) -> dict[str, Any]:
    file = scratch / f"{name}.yaml"
    began = time.monotonic()
    found = raymtl("init", logs.path, "--out", str(file), "--name", name, "--yes")
    after_init = time.monotonic()
    raymtl("check", "-c", str(file))
    after_check = time.monotonic()
    result = raymtl("train", "-c", str(file), "--set", f"output={scratch / 'runs'}")
    end = time.monotonic()
    uses = {column: entry["use"] for column, entry in found["columns"].items()}
    wrong = {column: [uses.get(column), use] for column, use in logs.uses.items() if uses.get(column) != use}
    return {
        "set": name,
        "rows": found["rows"],
        "seconds": {
            "init": round(after_init - began, 1),
            "check": round(after_check - after_init, 1),
            "train": round(end - after_check, 1),
        },
        "auc": round(result["metrics"]["eval"][logs.label]["auc"], 4),
        "boosted_auc": round(boosted(load_config(str(file)), logs.label), 4),
        "columns": len(logs.uses),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=[*MADE, "synth", "nested", "movielens", "census"])
    parser.add_argument("--census", help="Folder with the files of UCI Census-Income.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raymtl-first-hour-") as folder:
        scratch = Path(folder)
        for name in options.sets:
            if name in MADE:
                logs = MADE[name](scratch / name)
            elif name in ("synth", "nested"):
                layout = "nested" if name == "nested" else "flat"
                raymtl("synth", str(scratch / name), "--rows-per-day", "60000", "--set", f"layout={layout}")
                request = "ignore" if name == "nested" else "request"
                logs = Logs(str(scratch / name), SYNTH | {"request_id": request}, "click")
            elif name == "movielens":
                write_movielens_like(str(scratch / "ml"), users=1500, movies=800, ratings=120_000, days=60)
                convert("movielens", str(scratch / "ml"), str(scratch / name))
                logs = Logs(str(scratch / name / "logs"), MOVIELENS, "like")
            elif options.census is None:
                continue
            else:
                convert("census", options.census, str(scratch / name))
                logs = Logs(str(scratch / name), CENSUS, "income")
            print(json.dumps(measure(name, logs, scratch)), flush=True)


SYNTH = {
    "timestamp": "time", "scenario": "scenario", "hour_of_day": "id", "user_id": "group",
    "user_segment": "id", "age": "id", "gender": "id", "city": "id", "device": "id", "app_version": "id",
    "user_clicks_30d": "dense", "item_id": "id", "category": "id", "brand": "id", "tags": "ids", "price": "dense",
    "item_age_days": "dense", "item_ctr_7d": "dense", "rating": "dense", "hist_items": "sequence", "position": "bias",
    "random_order": "ignore", "click": "label", "cart": "label", "buy": "label", "buy_mature": "observed",
    "page_views": "label", "watch_time": "label", "weight": "weight", "p_click": "truth", "p_cart": "truth", "p_buy": "truth",
    "p_click_first": "truth", "mean_page_views": "truth", "mean_watch_time": "truth",
}  # fmt: skip
MOVIELENS = {
    "user_id": "group", "movie_id": "id", "gender": "id", "age": "id", "occupation": "id", "zip_area": "id", "year": "dense",
    "genres": "ids", "hour": "id", "weekday": "id", "liked_movies": "sequence", "user_ratings": "dense",
    "movie_ratings": "dense", "user_mean": "dense", "movie_mean": "dense", "scenario": "scenario", "like": "label",
    "love": "label", "stars": "label", "timestamp": "time",
}  # fmt: skip
CENSUS = (
    dict.fromkeys(CATEGORICAL, "id")
    | dict.fromkeys(DENSE, "dense")
    | dict.fromkeys(("income", "never_married"), "label")
)

if __name__ == "__main__":
    main()
