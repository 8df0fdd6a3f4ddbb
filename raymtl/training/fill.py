"""How full the steps of a run were, and the setting that makes them fuller."""

from raymtl.config.root import Config
from raymtl.data.units import Plan

_ENOUGH = 0.9


def fill_of(config: Config, rows: int, steps: int) -> float:
    """Rows per step as a share of `train.batch_size`."""
    return rows / (steps * config.train.rows_per_step) if steps else 0.0


def fill_advice(config: Config, plan: Plan, fill: float) -> str | None:
    """The setting that makes steps fuller; None: they are full enough."""
    if fill >= _ENOUGH:
        return None
    train = config.train
    intervals = {
        "train.checkpoint.every_units": train.checkpoint.every_units,
        "train.eval_every_units": train.eval_every_units if config.data.eval else None,
    }
    often = [f"{name} ({every})" for name, every in intervals.items() if every and every < len(plan.units)]
    reason, remedy = "the last step of each epoch is partly empty", ""
    if often:
        reason = "the last step before each checkpoint and evaluation is partly empty"
        remedy = f"raise {' and '.join(often)} or data.unit_rows ({config.data.unit_rows}), or "
    return (
        f"only {fill:.0%} of each step held rows, since {reason}; {remedy}lower train.batch_size ({train.batch_size})"
    )
