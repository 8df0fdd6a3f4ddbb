"""The steps of a run: their number, where all workers meet, and the batch size of a run whose configuration has none."""

from collections.abc import Collection

from raymtl.config.root import Config
from raymtl.config.train import MIN_BATCH
from raymtl.data.read import Schedule, deal_of
from raymtl.data.units import Plan
from raymtl.words import count_of

_FEW = 50


def with_batch_size(config: Config, rows: int) -> Config:
    """The configuration with its batch size as a number; `rows` are those of one epoch."""
    return config.model_copy(update={"train": config.train.with_batch_size(rows)})


def keep_batch_size(config: Config, size: int | None) -> Config:
    """The configuration with the batch size of what it continues (None: nothing), unless it has its own."""
    if config.train.batch_size is not None:
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})


def steps_line(config: Config, rows: int, steps: int) -> str:
    """The first line of a run: how much it learns from, and in what steps."""
    train = config.train
    epochs = "" if train.epochs == 1 else f" in {train.epochs} epochs"
    return f"{count_of(rows, 'training row')}{epochs}: {count_of(steps, 'step')} of {train.rows_per_step:,} rows"


def too_few_steps(config: Config, steps: int) -> str | None:
    """What to change in a run of too few steps to learn much; None: it has enough."""
    train = config.train
    if steps >= _FEW:
        return None
    lower = f"lower train.batch_size ({train.batch_size}), " if train.rows_per_step > MIN_BATCH else ""
    return (
        f"{count_of(steps, 'step')} are too few to learn much (fewer than {_FEW}): {lower}raise train.epochs ({train.epochs}), "
        "or add training days"
    )


def epoch_schedule(plan: Plan, config: Config) -> Schedule:
    """All epochs over the plan, in the order of `data.shuffle`."""
    shuffle = config.data.shuffle
    seed = None if shuffle.mode == "none" else shuffle.seed
    return [(number, unit) for number in range(config.train.epochs) for unit in plan.order(seed, number)]


def meeting_points(config: Config, plan: Plan, evaluates: bool, after_units: Collection[int]) -> list[int]:
    """Numbers of units, counted over all epochs, after which all workers meet: for a checkpoint, an evaluation (those of a
    `StopCallback` are `after_units`), or the end of an epoch."""
    train, units = config.train, len(plan.units)
    due = [train.checkpoint.every_units, *([train.eval_every_units] if evaluates else [])]
    of_epoch = {done for every in due if every is not None for done in range(every, units, every)} | {units}
    points = {number * units + done for number in range(train.epochs) for done in of_epoch}
    return sorted(points | (set(after_units) if evaluates else set()))


def planned_steps(config: Config, plan: Plan, evaluates: bool, after_units: Collection[int] = frozenset()) -> int:
    """Steps of the entire run; with a slice of the users an upper bound."""
    meetings = meeting_points(config, plan, evaluates, after_units)
    return deal_of(plan, epoch_schedule(plan, config), meetings, config, workers=1).steps
