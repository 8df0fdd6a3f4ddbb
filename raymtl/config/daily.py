"""The daily job: where versions are published, when a day is ready, how it is trained on, and when a candidate is published."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section
from raymtl.config.data import Day, Location
from raymtl.config.roles import Role
from raymtl.config.train import Schedule

Share = Annotated[float, Field(gt=0, lt=1)]


class Ready(Section):
    """When the logs of a day are complete. Before that the job ends with exit code 75."""

    marker: Annotated[str | None, Role.PUBLISHING] = None
    """File in the day's partition (`ds=…/_SUCCESS`) that the log writer creates last; null: no marker is required."""
    min_rows: Annotated[PositiveInt, Role.PUBLISHING] = 1
    """Minimum number of rows of a day."""


class Bounds(Section):
    """How far a day's statistics (rows, nulls, label rates, new IDs, scenarios) may differ from those of previous days."""

    history_days: Annotated[PositiveInt, Role.PUBLISHING] = 14
    """Maximum number of published days to learn from."""
    min_days: Annotated[PositiveInt, Role.PUBLISHING] = 5
    """With fewer published days only the columns and `min_rows_share` are checked."""
    min_rows_share: Annotated[float, Field(ge=0, lt=1), Role.PUBLISHING] = 0.2
    """Minimum number of rows of a day, as a share of the median of the previous days, or of the smallest earlier day of the same
    weekday if that is smaller; checked from the second day on."""
    spread: Annotated[PositiveFloat, Role.PUBLISHING] = 6.0
    """Half width of the bounds in standard deviations of the previous days, measured by their median absolute deviation."""
    slack: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.25
    """Minimum half width of the bounds, as a share of the median; without it, identical days would allow no change."""


class Replay(Section):
    """Rows of earlier days, trained on again together with those of the day."""

    share: Annotated[PositiveFloat, Role.LEARNING]
    """Number of these rows, as a share of the day's rows."""
    days: Annotated[PositiveInt, Role.LEARNING] = 14
    """Number of previous days to sample from; complete row groups are sampled at random."""


class Gate(Section):
    """Thresholds that a candidate must meet on the held-out rows, for each task, to be published.

    The previous version is the one that the day's training started from.
    """

    holdout: Annotated[Share, Role.LEARNING] = 0.02
    """Share of the users (`data.group`) whose rows are held out; a different sample every day."""
    min_positives: Annotated[PositiveInt, Role.PUBLISHING] = 100
    """The metrics of a binary task with fewer held-out positives (or negatives) are not checked, nor are those of another task
    with fewer than ten times as many held-out labels, or of a `watch_time` or `ziln` task with fewer labels above 0: they would
    be noise."""
    auc_drop: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.01
    """Maximum drop of the AUC below that of the previous version; likewise for the concordance of a `watch_time` task, and twice
    as much for the Gini coefficient of a `ziln` task, which is 2·AUC − 1 for labels 0 and 1."""
    ne_rise: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.05
    """Maximum rise of the normalised entropy, as a share of that of the previous version; likewise for the log
    loss, Poisson or geometric deviance, mean squared error or pinball loss of other tasks."""
    calibration: Annotated[tuple[PositiveFloat, PositiveFloat], Role.PUBLISHING] = (0.7, 1.4)
    """Smallest and largest ratio of the sum of predictions to the sum of labels; a candidate outside still passes if it is closer
    to 1 than the previous version."""
    order_rise: Annotated[NonNegativeFloat, Role.PUBLISHING] = 0.05
    """Maximum rise of the share of rows that violate the order of the funnel."""
    value_drop: Annotated[float, Field(ge=0, lt=1), Role.PUBLISHING] = 0.05
    """Maximum drop of value@k of each formula of `score` below that of the previous version, as a share of it; only with
    `score.gain`. NDCG@k and GAUC of a formula are in the reports and refuse no candidate."""
    norm_growth: Annotated[float, Field(gt=1), Role.PUBLISHING] = 1.5
    """Maximum factor by which the root mean square of a table's weights may grow (or shrink) in one day."""


class Daily(Section):
    """The daily job: trains the current version on the new day's logs, and publishes the result if it passes the gate."""

    store: Annotated[Location, Role.PUBLISHING]
    """Folder or URL of the versions; the job's record of each day is stored next to them."""
    bootstrap_days: Annotated[PositiveInt, Role.LEARNING] = 7
    """Number of days on which the first version is trained, ending with the day of that version, for `train.epochs` epochs."""
    skip: Annotated[list[Day], Role.PUBLISHING] = []
    """Bad days, which are never trained on."""
    ready: Ready = Ready()
    """When the logs of a day are complete."""
    bounds: Bounds | None = Bounds()
    """Limits for data drift; null: no comparison with previous days."""
    dense_lr_factor: Annotated[float, Field(ge=0, le=1), Role.LEARNING] = 1.0
    """Factor on the learning rate of the dense weights after the first version; 0: they do not change, and only the tables
    learn."""
    schedule: Schedule = Schedule()
    """Warm-up and decay of the learning rates within the day's training, instead of `train.schedule`."""
    accumulator_decay: Annotated[float, Field(gt=0, le=1), Role.LEARNING] = 1.0
    """Factor on Adagrad's accumulators of all tables at the start of each day; below 1 the effective learning rate of the tables
    does not shrink over the months."""
    replay: Replay | None = None
    """Rows of earlier days to train on again; null: every row once."""
    min_count: Annotated[NonNegativeInt, Role.LEARNING] = 0
    """Only for `map` tables: an ID that is absent on this day is evicted if its total number of lookups is below this."""
    gate: Gate = Gate()
    """Thresholds that a candidate must meet."""
    full_every: Annotated[PositiveInt, Role.PUBLISHING] = 7
    """Every N-th version is a full version, the others are deltas; 1: all are full."""
    keep: Annotated[PositiveInt, Role.PUBLISHING] = 14
    """Newest versions to keep; older ones are removed, except the bases of kept deltas, and the first version if
    `compare_days_ago` is set."""
    compare_days_ago: Annotated[PositiveInt | None, Role.PUBLISHING] = 7
    """Measure the first version, and the one trained up to this many days before the day, on the held-out rows too, so that the
    reports show what the training since has gained on the same rows; null: compare with the previous version only. Each of the
    two costs loading it and one pass over the held-out rows."""

    @model_validator(mode="after")
    def _in_order(self) -> "Daily":
        low, high = self.gate.calibration
        if low >= high:
            raise ValueError(f"gate.calibration is [{low}, {high}]; the first number must be below the second")
        return self
