"""The daily job: where versions are published, when a day is ready, how it is trained on, and what a candidate must reach."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section
from raymtl.config.data import Day, Location
from raymtl.config.train import Schedule

Share = Annotated[float, Field(gt=0, lt=1)]


class Ready(Section):
    """When a day's logs are there; until then the job ends with exit code 75."""

    marker: str | None = None
    """File in the day's partition (`ds=…/_SUCCESS`) that whoever writes the logs puts there last; null: none is asked for."""
    min_rows: PositiveInt = 1
    """Fewest rows of a day."""


class Bounds(Section):
    """How far the figures of a day (rows, nulls, label rates, new IDs, scenarios) may lie from those of the days before it."""

    history_days: PositiveInt = 14
    """Published days to learn from, at most."""
    min_days: PositiveInt = 5
    """With fewer published days only the columns and `min_rows_share` are judged."""
    min_rows_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Fewest rows of a day as a share of the median of the days before it, or of an earlier day of the same weekday that had
    fewer; judged from the second day on."""
    spread: PositiveFloat = 6.0
    """Half width of the bounds in standard deviations of the days before, measured by their median absolute deviation."""
    slack: NonNegativeFloat = 0.25
    """Least half width as a share of the usual value, so that days that were all alike do not forbid any change."""


class Replay(Section):
    """Rows of older days, trained on again beside those of the day."""

    share: PositiveFloat
    """How many, as a share of the day's rows."""
    days: PositiveInt = 14
    """From so many days before the day, in whole row groups by chance."""


class Gate(Section):
    """What a candidate must reach on the held-out rows, task by task, to be published."""

    holdout: Share = 0.02
    """Share of the users (`data.group`), other ones every day, whose rows of that day are not trained on."""
    min_positives: PositiveInt = 100
    """A binary task with fewer held-out positives (or negatives) is not judged by its metrics, nor is another task with fewer
    than ten times as many held-out labels: their metrics would be chance."""
    auc_drop: NonNegativeFloat = 0.01
    """Most that the AUC may lie below that of the version before."""
    ne_rise: NonNegativeFloat = 0.05
    """Most that the normalised entropy may rise over that of the version before, as a share of it; mean squared error and
    Poisson deviance of other tasks likewise."""
    calibration: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    """Least and greatest sum of predictions over sum of labels; a candidate outside may still pass where it is nearer to 1 than
    the version before."""
    order_rise: NonNegativeFloat = 0.05
    """Most that the share of rows that break the funnel's order may rise."""
    norm_growth: Annotated[float, Field(gt=1)] = 1.5
    """Largest factor by which the root mean square of a table's weights may grow (or shrink) in one day."""


class Daily(Section):
    """One command every night: yesterday's model and yesterday's logs make today's version, or a clear refusal."""

    store: Location
    """Folder or URL of the versions; what the job notes of each day lies beside them."""
    bootstrap_days: PositiveInt = 7
    """Days up to the first one that the very first version is trained on, for `train.epochs` epochs."""
    skip: list[Day] = []
    """Days to leave out: known to be bad, and never trained on."""
    ready: Ready = Ready()
    """When the day is there."""
    bounds: Bounds | None = Bounds()
    """What is usual; null: nothing is compared with the days before."""
    dense_lr_factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor on the learning rate of the dense weights after the first version; 0: they stay as they are and only the tables
    learn."""
    schedule: Schedule = Schedule()
    """Warm-up and decay of the learning rates within the day's training, in place of `train.schedule`."""
    accumulator_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on Adagrad's accumulators of all tables at the start of each day; below 1 the tables' learning rate does not
    fade over the months."""
    replay: Replay | None = None
    """Older rows to train on again; null: every row once."""
    min_count: NonNegativeInt = 0
    """Only for `map` tables: an ID that the day does not have is evicted where it was looked up less often in all."""
    gate: Gate = Gate()
    """What a candidate must reach."""
    full_every: PositiveInt = 7
    """Every so many versions one is written whole, those between as deltas; 1: all whole."""
    keep: PositiveInt = 14
    """Newest versions to keep; older ones are removed, but for those that a kept one rests on."""

    @model_validator(mode="after")
    def _in_order(self) -> "Daily":
        low, high = self.gate.calibration
        if low >= high:
            raise ValueError(f"gate.calibration is [{low}, {high}]; the first number must be below the second")
        return self
