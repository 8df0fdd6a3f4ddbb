"""Convert UCI Census-Income (KDD): two CSV files into logs with the MMoE paper's first pair of tasks.

The paper (Ma et al., KDD'18, §6.2) predicts whether the income exceeds 50,000 and whether the person never married.
Both label columns are removed from the inputs, and so is `instance_weight`, which UCI forbids for classifiers.
"""

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from raymtl.data.writing import OutputFolder, rows_without_collision, write_config, write_split
from raymtl.errors import DataError
from raymtl.storage.paths import join_path
from raymtl.storage.retry import to_user_error

# fmt: off
COLUMNS = (
    "age", "class_worker", "det_ind_code", "det_occ_code", "education", "wage_per_hour", "hs_college",
    "marital_stat", "major_ind_code", "major_occ_code", "race", "hisp_origin", "sex", "union_member",
    "unemp_reason", "full_or_part_emp", "capital_gains", "capital_losses", "stock_dividends", "tax_filer_stat",
    "region_prev_res", "state_prev_res", "det_hh_fam_stat", "det_hh_summ", "instance_weight", "mig_chg_msa",
    "mig_chg_reg", "mig_move_reg", "mig_same", "mig_prev_sunbelt", "num_emp", "fam_under_18", "country_father",
    "country_mother", "country_self", "citizenship", "own_or_self", "vet_question", "vet_benefits", "weeks_worked",
    "year", "income_50k",
)
# fmt: on
"""The 42 columns of the headerless files, in order."""

DENSE = {
    "age": "none",
    "wage_per_hour": "log1p",
    "capital_gains": "log1p",
    "capital_losses": "log1p",
    "stock_dividends": "log1p",
    "num_emp": "none",
    "weeks_worked": "none",
}
"""Dense columns and their transform; the four sums of money are 0 for most people and reach 99,999."""

NOT_INPUTS = ("income_50k", "marital_stat", "instance_weight")
CATEGORICAL = tuple(c for c in COLUMNS if c not in DENSE and c not in NOT_INPUTS)
"""The 32 columns that become string IDs; `?` (unknown) stays a value of its own."""

_SITE = "https://archive.ics.uci.edu/dataset/117"
_INCOME = {"50000+.": True, "- 50000.": False}
_DAY = "1994-01-01"  # the surveys have years, not days: one partition, dated at the start of the period
_HEADER = """\
UCI Census-Income (KDD), CC BY 4.0, converted by `raymtl convert census`.
Tasks: the first pair of the MMoE paper, income above 50,000 and never married.
Every table is large enough that no two values of its column share a row."""
_FILES = {
    "train": ("census_income_1994_1995_train.csv", "census-income.data"),
    "test": ("census_income_1994_1995_test.csv", "census-income.test"),
}


def convert_census(source: str, out: str) -> str:
    """Convert the census files of folder `source` to `out/train` and `out/test`; returns the path of `out/config.yaml`.

    Columns written: 32 string IDs, 7 raw float32, the labels `income` and `never_married` (int8, never null).
    Raises DataError if a file is missing or does not have the 42 columns in order.
    """
    splits = {name: _table(_find(source, name)) for name in _FILES}
    folder = OutputFolder.open(out)
    write_split(splits["train"], folder, "train", _DAY, files=8)
    write_split(splits["test"], folder, "test", _DAY, files=4)
    return write_config(_config(splits["train"], splits["test"], folder.path), folder, _HEADER)


def _find(source: str, split: str) -> str:
    if not os.path.isdir(source):
        raise DataError(
            f"census: the source folder `{source}` does not exist; pass the folder that holds the CSV files"
        )
    names = [name + suffix for name in _FILES[split] for suffix in ("", ".gz")]
    for name in names:
        if os.path.isfile(os.path.join(source, name)):
            return os.path.join(source, name)
    raise DataError(f"census: folder `{source}` has no {split} file (one of {names}); download it from {_SITE}")


def _read(path: str) -> pa.Table:
    """The file as 42 columns of trimmed strings."""
    try:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=COLUMNS),
            parse_options=pacsv.ParseOptions(quote_char=False),
            convert_options=pacsv.ConvertOptions(
                column_types={c: pa.string() for c in COLUMNS}, strings_can_be_null=False
            ),
        )
    except PermissionError as error:
        raise to_user_error(f"read `{path}`", error) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"census: `{path}` is not the census file, a CSV of {len(COLUMNS)} columns without a header ({error}); "
            f"download it again from {_SITE}"
        ) from error
    return pa.table({name: pc.utf8_trim_whitespace(table[name]) for name in COLUMNS})


def _table(path: str) -> pa.Table:
    """The columns of the logs, from a file of raw strings."""
    raw = _read(path)
    columns: dict[str, Any] = {name: raw[name] for name in CATEGORICAL}
    for name in DENSE:
        try:
            columns[name] = pc.cast(raw[name], pa.float32())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"census: `{path}`: column `{name}` is not a number ({error}); download the file again from {_SITE}"
            ) from error
    income = raw["income_50k"]
    known = pc.is_in(income, pa.array(list(_INCOME)))
    if not pc.all(known).as_py():
        line = pc.index(known, False).as_py()
        raise DataError(
            f"census: `{path}`, line {line + 1}: income_50k is {income[line].as_py()!r}, not one of {list(_INCOME)}; download "
            f"the file again from {_SITE}"
        )
    columns["income"] = pc.cast(pc.equal(income, "50000+."), pa.int8())
    columns["never_married"] = pc.cast(pc.equal(raw["marital_stat"], "Never married"), pa.int8())
    return pa.table(columns)


def _config(train: pa.Table, test: pa.Table, root: str) -> dict[str, Any]:
    """The configuration for the converted files."""
    features: dict[str, Any] = {name: {"kind": "id"} for name in CATEGORICAL}
    for name, transform in DENSE.items():
        values = train[name].to_numpy().astype(np.float64)
        values = np.log1p(values) if transform == "log1p" else values
        features[name] = {
            "kind": "dense",
            "transform": transform,
            "mean": round(float(values.mean()), 6),
            "std": round(float(values.std()), 6) or 1.0,
        }
    day = {"start": _DAY, "end": _DAY}
    return {
        "name": "census",
        "data": {
            "path": join_path(root, "train"),
            "train": day,
            "eval": day,
            "eval_path": join_path(root, "test"),
            "unit_rows": 20_000,  # one file per unit
        },
        "features": features,
        "table_defaults": {"dim": 16},
        "tables": {
            name: {"rows": rows_without_collision(pa.chunked_array([*train[name].chunks, *test[name].chunks]))}
            for name in CATEGORICAL
        },
        "tasks": {"income": {"kind": "binary"}, "never_married": {"kind": "binary"}},
        "model": {
            "preset": "mmoe",
            "trunk": {"experts": 4, "hidden": [128, 64]},
            "towers": {"hidden": [32]},
        },
        "train": {
            "batch_size": 512,
            "epochs": 3,
            "dense_optimizer": {"type": "adam", "lr": 2e-3},
            "sparse_optimizer": {"type": "rowwise_adagrad", "lr": 5e-3},
            "checkpoint": {"every_units": 8},
        },
    }
