"""The weight of each row: `data.weight`, and one over the probability with which the row was kept (`data.sampling`).

A row that was dropped is dropped for every task, so only a weight of the row is right for all of them: the sum of any function of
kept rows, each weighted by 1 / probability, has the sum over the complete logs as its expectation (Horvitz & Thompson, JASA 47,
1952). `docs/adr/0040-calibration.md` has the alternatives.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.contract import label_kind
from raymtl.data.rules import Rule, one_array

Broken = Callable[[str, str, np.ndarray, pa.Array, Rule], None]
"""Called with the column, the key that names it, a mask of the values that break the rule [N] bool, the column's values, and the
rule."""


def row_weights(raw: pa.Table, config: Config, broken: Broken | None = None) -> np.ndarray | None:
    """The weights of the rows of a raw table, [N] float32; None: all are 1.

    Values that break their rule are reported; without `broken` they count as they are.
    """
    found: np.ndarray | None = None
    if name := config.data.weight:
        column = one_array(raw, name, "number")
        found, wrong = rules.weights(column)
        if broken is not None and wrong.any():
            broken(name, "data.weight", wrong, column, rules.WEIGHT)
    if config.data.sampling is None:
        return found
    kept = kept_probabilities(raw, config, broken)
    return 1 / kept if found is None else found / kept


def kept_probabilities(raw: pa.Table, config: Config, broken: Broken | None = None) -> np.ndarray:
    """The probability with which each row was kept, [N] float32; 1 where it is broken and no error was raised."""
    sampling = config.data.sampling
    assert sampling is not None
    sampled = np.ones(len(raw), bool)
    if sampling.task is not None:
        task = config.tasks[sampling.task]
        column = one_array(raw, task.label_column(sampling.task), label_kind(task))
        sampled = rules.label_values(column, task) == 0
    if sampling.column is None:
        return np.where(sampled, np.float32(sampling.rate), np.float32(1))
    column = one_array(raw, sampling.column, "number")
    rates, wrong = rules.kept_rates(column)
    wrong &= sampled
    if broken is not None and wrong.any():
        broken(sampling.column, "data.sampling.column", wrong, column, rules.KEPT)
    return np.where(sampled & ~wrong, rates, np.float32(1))
