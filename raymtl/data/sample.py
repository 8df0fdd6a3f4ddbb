"""A quick check of the data before a run: the driver checks and counts a few chunks of the training days."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from raymtl.config.root import Config
from raymtl.config.task_kinds import BaseRate
from raymtl.config.tasks import Task
from raymtl.data import rules
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment, read_requests
from raymtl.data.requests import Requests
from raymtl.data.row_weights import row_weights
from raymtl.data.rules import where_observed
from raymtl.data.units import Fragment, Plan
from raymtl.errors import DataError

_CHUNKS = 4
_ROWS = 50_000
_THREADS = 8

Sums = dict[str, np.ndarray]
"""By task: [5 + n] the weighted sum of its observed labels, the sum of their weights, their number, and the weighted sums of what
the task trains on, of its square and of the n columns of `TaskKind.start_terms`; weights above 0."""


def sample_base_rates(config: Config, plan: Plan, known: Mapping[str, float] | None = None) -> dict[str, BaseRate]:
    """Weighted mean and spread of the observed labels of each task over a few chunks spread over the plan; the heads start there.

    The mean weight of the labels is measured too; losses are divided by it. A mean label that is `known`, or in the
    configuration, stays.

    These chunks go through every check that a reading task makes, so a broken value there stops the job in seconds. If a task
    has no observed label in them, the label columns of ever more of the plan are read until one is found, unless neither its mean
    nor its weight is wanted.

    Raises DataError if a task has no observed label in the whole plan and no mean that stays.
    """
    # The maps are built after these checks, and no label depends on a row
    maker = BlockMaker(config, evaluation=False, maps=dict.fromkeys(config.map_tables()))
    fragments = [f for unit in plan.units for f in unit.fragments]
    sums: Sums = {name: np.zeros(_width(task)) for name, task in config.active_tasks().items()}
    for place in _spread(len(fragments), _CHUNKS):
        fragment = fragments[place]
        for raw, row in read_requests(plan.root, fragment, maker.raw_columns(), _ROWS, slice(_ROWS)):
            maker(raw, Place(fragment.path, row), 0)
            rows = raw.per_row(maker.label_columns()) if isinstance(raw, Requests) else raw
            _add(sums, _sums_of(config, maker, rows, Place(fragment.path, row)), sums)
            break  # a chunk may come in parts, of which the first is enough
    fixed = {name: task.base_rate for name, task in config.active_tasks().items() if task.base_rate is not None}
    fixed |= known or {}
    wanted = [name for name, task in config.active_tasks().items() if name not in fixed or config.has_weights(task)]
    _search(config, plan.root, fragments, maker, sums, wanted)
    rates = {}
    for name, task in config.active_tasks().items():
        total, weighed, count, targets, squares, *terms = sums[name].tolist()
        center = spread = None
        weight = 1.0
        if weighed > 0:
            weight = weighed / count
            terms = [term / weighed for term in terms]
            center = targets / weighed
            spread = max(squares / weighed - center**2, 0.0) ** 0.5 or abs(center) or 1.0
        if name in fixed:
            rates[name] = BaseRate(fixed[name], center, spread, terms if weighed > 0 else (), weight)
        elif weighed == 0:
            raise DataError(
                f"tasks.{name}: no label is observed on the training days "
                f"({where_observed(name, task, config.multiplies_labels(), config.data.weight)}); choose days that have labels, "
                + (
                    f"or set tasks.{name}.base_rate to train anyway"
                    if task.traits.has_base_rate
                    else "or remove the task"
                )
            )
        else:
            # half a label of mean weight keeps the logarithm finite where the sample has one class only
            more = weight if task.traits.is_rate else 0.0
            rates[name] = BaseRate((total + 0.5 * more) / (weighed + more), center, spread, terms, weight)
    return rates


def _search(
    config: Config, root: str, fragments: list[Fragment], maker: BlockMaker, sums: Sums, wanted: Iterable[str]
) -> None:
    """Add labels of further fragments for wanted tasks that have none yet: `raymtl check`, which reads all rows, would accept
    them."""

    def read(place: int) -> Sums:
        fragment, found = fragments[place], {name: np.zeros_like(total) for name, total in sums.items()}
        for raw, row in read_fragment(root, fragment, maker.label_columns(), config.data.block_rows):
            _add(found, _sums_of(config, maker, raw, Place(fragment.path, row)), found)
        return found

    seen: set[int] = set()
    count = _CHUNKS
    with ThreadPoolExecutor(_THREADS) as pool:
        while len(seen) < len(fragments):
            blind = [name for name in wanted if not sums[name][1]]
            if not blind:
                return
            places = [place for place in _spread(len(fragments), count) if place not in seen]
            for found in pool.map(read, places):
                _add(sums, found, blind)
            seen.update(places)
            count *= 2


def _spread(length: int, count: int) -> list[int]:
    """At most `count` places of a list, evenly spread from the first to the last."""
    return sorted({round(p) for p in np.linspace(0, length - 1, min(count, length))})


def _sums_of(config: Config, maker: BlockMaker, raw: pa.Table, place: Place) -> Sums:
    of_rows = row_weights(raw, config)
    labels, found = maker.labels(raw, place), {}
    for name, task in config.active_tasks().items():
        weight = rules.product_of_weights(raw, [task.weight_column])
        weight = weight if of_rows is None else weight * of_rows
        seen = ~np.isnan(labels[name]) & (weight > 0)
        values, weights = labels[name][seen].astype(np.float64), weight[seen].astype(np.float64)
        target, terms = task.traits.trained_on(values), task.traits.start_terms(values, task)
        sums = [values @ weights, weights.sum(), len(weights), target @ weights, target**2 @ weights]
        found[name] = np.array([*sums, *(weights @ terms)])
    return found


def _width(task: Task) -> int:
    return 5 + task.traits.start_terms(np.empty(0), task).shape[1]


def _add(sums: Sums, found: Sums, names: Iterable[str]) -> None:
    for name in names:
        sums[name] = sums[name] + found[name]
