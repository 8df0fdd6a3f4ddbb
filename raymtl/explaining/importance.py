"""Permutation importance of the columns of the logs: by how much the metrics fall if a column's values are those of other rows.

A permutation breaks what a column tells and keeps its distribution (Breiman, Machine Learning 45, 2001, section 10; for any model
Fisher, Rudin & Dominici, JMLR 20, 2019). It is applied to the column of the logs, so that everything that is made of it changes
together: features that share it, buckets, crosses. Columns that say the same are also permuted together, since each of them hides
the worth of the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raymtl.errors import DataError
from raymtl.explaining.meter import MIN_GROUPS, Key, Measured, Meter, Score, of_tasks
from raymtl.explaining.model import LoadedModel
from raymtl.explaining.sample import Sample, SampleReader
from raymtl.reports.tables import ALL
from raymtl.words import count_of

Columns = tuple[str, ...]
OnCount = Callable[[int, int], None]


@dataclass(frozen=True)
class Importances:
    """How much the metrics need some columns."""

    base: dict[Key, Measured]
    """The metrics as they are."""
    of: dict[Columns, dict[Key, Measured]]
    """By columns that are permuted together: by how much the metrics get worse."""
    excess: dict[Columns, dict[Key, Measured]]
    """What a group is worth beyond the sum of its columns, over all scenarios: above 0 they stand in for each other."""


def permutation_importance(
    model: LoadedModel,
    reader: SampleReader,
    sample: Sample,
    groups: Sequence[Columns],
    seed: int,
    on_count: OnCount = lambda done, of: None,
) -> Importances:
    """The importance of every group of columns. Raises DataError if no task can be measured.

    The columns of a larger group that are also groups of their own come before it.
    """
    meter = Meter(model.config, sample, model.outputs)
    if not of_tasks(dict.fromkeys(meter.keys)):
        what = "users" if model.config.data.group else "rows"
        raise DataError(
            f"no task can be measured on {count_of(sample.rows, 'row')}: one needs {MIN_GROUPS} {what} with labels, and a binary "
            f"one {MIN_GROUPS} positives and negatives; choose more days, or raise --rows"
        )
    base = meter.scores(model.logits(sample.columns))
    members = {column for columns in groups if len(columns) > 1 for column in columns}
    found = Importances({key: score.measured() for key, score in base.items()}, {}, {})
    alone: dict[str, dict[Key, Score]] = {}
    for n, columns in enumerate(groups):
        on_count(n, len(groups))
        values = permuted(sample, columns, seed)
        worse = meter.scores(model.logits(reader.with_columns(sample, values)))
        lost = {key: base[key] - worse[key] for key in base}
        found.of[columns] = {key: score.measured() for key, score in lost.items()}
        over_all = {key: score for key, score in lost.items() if key[1] == ALL}
        if len(columns) == 1 and columns[0] in members:
            alone[columns[0]] = over_all
        elif set(columns) <= alone.keys():
            for column in columns:
                over_all = {key: score - alone[column][key] for key, score in over_all.items()}
            found.excess[columns] = {key: score.measured() for key, score in over_all.items()}
    on_count(len(groups), len(groups))
    return found


def permuted(sample: Sample, columns: Sequence[str], seed: int) -> dict[str, pa.ChunkedArray]:
    """The values of other rows: the same ones for all of the columns."""
    order = np.random.default_rng([seed, 4, *_key_of(columns)]).permutation(sample.rows)
    return sample.rows_of(columns, order)


def _key_of(columns: Sequence[str]) -> list[int]:
    """Numbers that differ with the columns, for a generator of their own."""
    return list("\0".join(columns).encode())
