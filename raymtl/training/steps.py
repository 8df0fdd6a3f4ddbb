"""The batch size of a run whose configuration has none, and whether the run has enough steps."""

from raymtl.config.root import Config
from raymtl.config.train import MIN_BATCH
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
