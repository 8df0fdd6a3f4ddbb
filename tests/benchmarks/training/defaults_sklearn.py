"""Scikit-learn on the data sets of `defaults.py`, for an environment with scikit-learn, pandas, pyarrow and PyYAML.

python tests/benchmarks/training/defaults_sklearn.py FOLDER, where FOLDER is what `defaults --folder` keeps. One JSON line per
data set: mean AUC over the binary tasks of a logistic regression (IDs as indicators, numbers standardised) and of boosted trees
(IDs as categories if they have at most 255 values), both without histories and lists.
"""

import json
import statistics
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import yaml
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

_MOST_CATEGORIES = 255


def read(root: str, days: dict[str, str]) -> pd.DataFrame:
    folders = [p for p in sorted(Path(root).glob("ds=*")) if str(days["start"]) <= p.name[3:] <= str(days["end"])]
    return pd.concat([pq.read_table(p, partitioning=None).to_pandas() for p in folders])


def measure(folder: Path) -> dict[str, float]:
    raw = yaml.safe_load((folder / "used.yaml").read_text())
    data = raw["data"]
    train, test = read(data["path"], data["train"]), read(data.get("eval_path") or data["path"], data["eval"])
    named = {kind: [n for n, f in raw["features"].items() if f["kind"] == kind] for kind in ("id", "dense")}
    small = [n for n in named["id"] if train[n].nunique() <= _MOST_CATEGORIES]
    models = {
        "logistic": lambda: make_pipeline(
            make_column_transformer(
                (OneHotEncoder(handle_unknown="ignore"), named["id"]), (StandardScaler(), named["dense"])
            ),
            LogisticRegression(max_iter=300),
        ),
        "trees": lambda: make_pipeline(
            make_column_transformer(
                (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), small),
                ("passthrough", named["dense"]),
            ),
            HistGradientBoostingClassifier(categorical_features=list(range(len(small)))),
        ),
    }
    found: dict[str, float] = {}
    for name, make in models.items():
        aucs = []
        for task, section in raw["tasks"].items():
            if (section or {}).get("kind", "binary") == "binary":
                rows, rest = train[train[task].notna()], test[test[task].notna()]
                model = make().fit(rows.fillna(dict.fromkeys(named["dense"], 0)), rows[task].astype(int))
                scores = model.predict_proba(rest.fillna(dict.fromkeys(named["dense"], 0)))[:, 1]
                aucs.append(roc_auc_score(rest[task].astype(int), scores))
        found[name] = round(statistics.mean(aucs), 5)
    return found


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(json.dumps({"set": path.name, **measure(path)}), flush=True)
