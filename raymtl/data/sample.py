"""A quick check of the data before a run: the driver checks and counts a few chunks of the training days."""

import numpy as np

from raymtl.config.root import Config
from raymtl.config.task_kinds import BaseRate
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.read import read_fragment
from raymtl.data.rules import where_observed
from raymtl.data.units import Plan
from raymtl.errors import DataError

_CHUNKS = 4
_ROWS = 50_000


def sample_base_rates(config: Config, plan: Plan) -> dict[str, BaseRate]:
    """Weighted mean and spread of the observed labels of each task over a few chunks spread over the plan; the heads start there.

    These chunks go through every check that a reading task makes, so a broken value there stops the job in seconds.
    Raises DataError if a task has no observed label in the sample and no `base_rate` in the configuration.
    """
    # The maps are built after these checks, and no label depends on a row
    maker = BlockMaker(config, evaluation=False, maps=dict.fromkeys(config.map_tables()))
    fragments = [f for unit in plan.units for f in unit.fragments]
    places = sorted({round(p) for p in np.linspace(0, len(fragments) - 1, _CHUNKS)})
    sums = {name: np.zeros(5) for name in config.active_tasks()}
    for place in places:
        fragment = fragments[place]
        for raw, row in read_fragment(plan.root, fragment, maker.raw_columns(), _ROWS, slice(_ROWS)):
            block = maker(raw, Place(fragment.path, row), 0)
            weight = block.column("weight").to_numpy() if config.data.weight else np.ones(len(block), np.float32)
            for name, found in sums.items():
                labels = block.column(f"label:{name}").to_numpy()
                seen = ~np.isnan(labels)
                labels, weights = labels[seen].astype(np.float64), weight[seen].astype(np.float64)
                target = config.tasks[name].traits.trained_on(labels)
                found += [labels @ weights, weights.sum(), len(weights), target @ weights, target**2 @ weights]
            break  # a chunk may come in parts, of which the first is enough
    rates = {}
    for name, task in config.active_tasks().items():
        total, weighed, count, targets, squares = sums[name].tolist()
        center = spread = None
        if weighed > 0:
            center = targets / weighed
            spread = max(squares / weighed - center**2, 0.0) ** 0.5 or abs(center) or 1.0
        if task.base_rate is not None:
            rates[name] = BaseRate(task.base_rate, center, spread)
        elif weighed == 0:
            raise DataError(
                f"tasks.{name}: no label is observed in a sample of the training days "
                f"({where_observed(name, task, config.multiplies_labels())}"
                + (f", weighted by `{config.data.weight}`" if config.data.weight else "")
                + f"); choose days that have labels, or set tasks.{name}.base_rate to train anyway"
            )
        else:
            # half a label of mean weight keeps the logarithm finite where the sample has one class only
            more = weighed / count if task.traits.is_rate else 0.0
            rates[name] = BaseRate((total + 0.5 * more) / (weighed + more), center, spread)
    return rates
