"""The daily job: where versions are published, when a day is ready, how it is trained on, and what a candidate must reach."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section
from raymtl.config.data import Day, Location
from raymtl.config.roles import Role
from raymtl.config.train import Schedule

Share = Annotated[float, Field(gt=0, lt=1)]


class Ready(Section):
    """When a day's logs are there; until then the job ends with exit code 75."""

    marker: Annotated[str | None, Role.PUBLISHING] = None
    """File in the day's partition (`ds=…/_SUCCESS`) that whoever writes the logs puts there last; null: none is asked for."""
    min_rows: Annotated[PositiveInt, Role.PUBLISHING] = 1
    """Fewest rows of a day."""


class Bounds(Section):
    """How far the figures of a day (rows, nulls, label rates, new IDs, scenarios) may lie from those of the days before it."""

    history_days: Annotated[PositiveInt, Role.PUBLISHING] = 14
    """Published days to learn from, at most."""
    min_days: Annotated[PositiveInt, Role.PUBLISHING] = 5
    """With fewer published days only the columns and `min_rows_share` are judged."""
    min_rows_share: Annotated[float, Field(ge=0, lt=1), Role.PUBLISHING] = 0.2
    """Fewest rows of a day as a share of the median of the days before it, or of an earlier day of the same weekday that had
    fewer; judged from the second day on."""
    spread: Annotated[PositiveFloat, Role.PUBLISHING] = 6.0
    """Half width of the bounds in standard deviations of the days before, measured by their median absolute deviation."""
    slack: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.25
    """Least half width as a share of the usual value, so that days that were all alike do not forbid any change."""


class Replay(Section):
    """Rows of older days, trained on again beside those of the day."""

    share: Annotated[PositiveFloat, Role.LEARNING]
    """How many, as a share of the day's rows."""
    days: Annotated[PositiveInt, Role.LEARNING] = 14
    """From so many days before the day, in whole row groups by chance."""


class Gate(Section):
    """What a candidate must reach on the held-out rows, task by task, to be published."""

    holdout: Annotated[Share, Role.LEARNING] = 0.02
    """Share of the users (`data.group`), other ones every day, whose rows of that day are not trained on."""
    min_positives: Annotated[PositiveInt, Role.PUBLISHING] = 100
    """A binary task with fewer held-out positives (or negatives) is not judged by its metrics, nor is another task with fewer
    than ten times as many held-out labels: their metrics would be chance."""
    auc_drop: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.01
    """Most that the AUC may lie below that of the version before."""
    ne_rise: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.05
    """Most that the normalised entropy may rise over that of the version before, as a share of it; mean squared error and
    Poisson deviance of other tasks likewise."""
    calibration: Annotated[tuple[PositiveFloat, PositiveFloat], Role.PUBLISHING] = (0.7, 1.4)
    """Least and greatest sum of predictions over sum of labels; a candidate outside may still pass where it is nearer to 1 than
    the version before."""
    order_rise: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.05
    """Most that the share of rows that break the funnel's order may rise."""
    norm_growth: Annotated[float, Field(gt=1), Role.PUBLISHING] = 1.5
    """Largest factor by which the root mean square of a table's weights may grow (or shrink) in one day."""


class Daily(Section):
    """One command every night: yesterday's model and yesterday's logs make today's version, or a clear refusal."""

    store: Annotated[Location, Role.PUBLISHING]
    """Folder or URL of the versions; what the job notes of each day lies beside them."""
    bootstrap_days: Annotated[PositiveInt, Role.LEARNING] = 7
    """Days up to the first one that the very first version is trained on, for `train.epochs` epochs."""
    skip: Annotated[list[Day], Role.PUBLISHING] = []
    """Days to leave out: known to be bad, and never trained on."""
    ready: Ready = Ready()
    """When the day is there."""
    bounds: Bounds | None = Bounds()
    """What is usual; null: nothing is compared with the days before."""
    dense_lr_factor: Annotated[float, Field(ge=0, le=1), Role.LEARNING] = 1.0
    """Factor on the learning rate of the dense weights after the first version; 0: they stay as they are and only the tables
    learn."""
    schedule: Schedule = Schedule()
    """Warm-up and decay of the learning rates within the day's training, in place of `train.schedule`."""
    accumulator_decay: Annotated[float, Field(gt=0, le=1), Role.LEARNING] = 1.0
    """Factor on Adagrad's accumulators of all tables at the start of each day; below 1 the tables' learning rate does not
    fade over the months."""
    replay: Replay | None = None
    """Older rows to train on again; null: every row once."""
    min_count: Annotated[NonNegativeInt, Role.LEARNING] = 0
    """Only for `map` tables: an ID that the day does not have is evicted where it was looked up less often in all."""
    gate: Gate = Gate()
    """What a candidate must reach."""
    full_every: Annotated[PositiveInt, Role.PUBLISHING] = 7
    """Every so many versions one is written whole, those between as deltas; 1: all whole."""
    keep: Annotated[PositiveInt, Role.PUBLISHING] = 14
    """Newest versions to keep; older ones are removed, but for those that a kept one rests on."""

    @model_validator(mode="after")
    def _in_order(self) -> "Daily":
        low, high = self.gate.calibration
        if low >= high:
            raise ValueError(f"gate.calibration is [{low}, {high}]; the first number must be below the second")
        return self
