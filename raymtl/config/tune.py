"""The search: which fields may change, what makes a trial better, how trials are chosen, and when one is given up."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section, quoted
from raymtl.config.data import Location
from raymtl.config.roles import Role

Range = tuple[float, float]
WholeRange = tuple[int, int]

KINDS = ("choice", "uniform", "log_uniform", "integer", "log_integer")


class Dimension(Section):
    """The values that one field may take; exactly one of `choice`, `uniform`, `log_uniform`, `integer` and `log_integer`."""

    choice: Annotated[list[Any], Field(min_length=1)] | None = None
    """One of these."""
    uniform: Range | None = None
    """A number between the two."""
    log_uniform: Range | None = None
    """A number between the two, every factor as likely as any other."""
    integer: WholeRange | None = None
    """A whole number between the two, both included."""
    log_integer: WholeRange | None = None
    """The same, every factor as likely as any other."""
    when: dict[str, Any] = {}
    """Only where these fields have these values (or one of a list of values), such as `model.coupler.type: ait`."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {quoted(given) if given else 'no values'}; give exactly one of {quoted(KINDS)}, such as "
                "`log_uniform: [0.1, 10]`"
            )
        limits = None if self.choice is not None else getattr(self, given[0])
        if limits is not None:
            low, high = limits
            if low >= high:
                raise ValueError(f"{given[0]} is [{low}, {high}]; the first number must be below the second")
            if given[0].startswith("log_") and low <= 0:
                raise ValueError(f"{given[0]} begins at {low}; it must be above 0")
        return self


class Bound(Section):
    """What a metric must keep to; exactly one of the three."""

    max_drop: NonNegativeFloat | None = None
    """The metric may be worse than that of the default configuration by this much."""
    at_least: float | None = None
    """A fixed floor."""
    at_most: float | None = None
    """A fixed ceiling."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Bound":
        given = [k for k in type(self).model_fields if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {quoted(given) if given else 'no limit'}; set exactly one of `max_drop`, `at_least` and `at_most`"
            )
        return self


class Objective(Section):
    """What makes one trial better than another; exactly one of `metric`, `mean` and `pareto`.

    A metric is `mean_auc` or `<task>.<metric>`; whether more or less of it is better is known. All are those of the evaluation
    days: the training loss is none, since it changes with the very weights that are searched.
    """

    metric: Annotated[str | None, Role.SEARCH] = None
    """One metric."""
    mean: Annotated[Annotated[dict[str, PositiveFloat], Field(min_length=1)] | None, Role.SEARCH] = None
    """A weighted mean of metrics, from their names to their weights; one of which less is better counts negative."""
    pareto: Annotated[Annotated[list[str], Field(min_length=2)] | None, Role.SEARCH] = None
    """Several metrics at once: the trials that no other one beats in all of them."""
    subject_to: Annotated[dict[str, Bound], Role.SEARCH] = {}
    """Limits on other metrics; a trial that breaks one is never the best."""

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, raw: Any) -> Any:
        return {"metric": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _one_kind(self) -> "Objective":
        given = [k for k in ("metric", "mean", "pareto") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"has {quoted(given) if given else 'no metric'}; set exactly one of `metric`, `mean` and `pareto`"
            )
        return self

    def goals(self) -> list[str]:
        """The metrics that the objective is made of, without those of `subject_to`."""
        if self.metric is not None:
            return [self.metric]
        return list(self.mean or self.pareto or [])


class TPE(Section):
    """Optuna's tree-structured Parzen estimator: learns from the trials before; for one objective or several."""

    type: Annotated[Literal["tpe"], Role.SEARCH]
    """Tree-structured Parzen estimator."""
    startup_trials: Annotated[PositiveInt, Role.SEARCH] = 8
    """Trials at random before it begins to learn."""


class NSGA2(Section):
    """Optuna's NSGA-II, a genetic search for several objectives; needs many short trials."""

    type: Annotated[Literal["nsga2"], Role.SEARCH]
    """NSGA-II."""
    population: Annotated[int, Field(ge=2), Role.SEARCH] = 12
    """Trials of a generation."""


class RandomSearch(Section):
    """Every trial at random, whatever was found before."""

    type: Annotated[Literal["random"], Role.SEARCH]
    """Random."""


class Grid(Section):
    """Every combination of the values; all dimensions must be a `choice`."""

    type: Annotated[Literal["grid"], Role.SEARCH]
    """Grid."""


Sampler = Annotated[TPE | NSGA2 | RandomSearch | Grid, Field(discriminator="type")]


class NoStopping(Section):
    """Every trial trains to its end."""

    type: Annotated[Literal["none"], Role.SEARCH]
    """No trial is stopped."""


class ASHA(Section):
    """Asynchronous successive halving: at every rung only the best part of the trials so far advances."""

    type: Annotated[Literal["asha"], Role.SEARCH]
    """Asynchronous successive halving."""
    first_rung_rows: Annotated[PositiveInt, Role.SEARCH]
    """Rows seen at the first rung; each further one lies `reduction` times as far. A trial is judged at the end of the unit in
    which it passes the rung."""
    reduction: Annotated[int, Field(ge=2), Role.SEARCH] = 3
    """Reduction factor: one in N trials advances from each rung."""
    by: Annotated[str | None, Role.SEARCH] = None
    """Metric to judge by; null: the objective, which must not be `pareto` then."""


class MedianStop(Section):
    """A trial stops where its best value so far is worse than the median of the others at the same rows."""

    type: Annotated[Literal["median"], Role.SEARCH]
    """Median stopping."""
    every_rows: Annotated[PositiveInt, Role.SEARCH]
    """Rows from one judgement to the next."""
    startup_trials: Annotated[PositiveInt, Role.SEARCH] = 5
    """Finished trials before any is stopped."""
    by: Annotated[str | None, Role.SEARCH] = None
    """Metric to judge by; null: the objective, which must not be `pareto` then."""


Stopping = Annotated[NoStopping | ASHA | MedianStop, Field(discriminator="type")]


class Start(Section):
    """A published version that every trial begins with."""

    store: Annotated[Location | None, Role.SEARCH] = None
    """Folder or URL of its store; null: `daily.store`."""
    version: Annotated[str | None, Role.SEARCH] = None
    """Its name; null: the current one."""
    train: Annotated[Literal["all", "heads"], Role.SEARCH] = "all"
    """`heads`: only towers, coupler and bias learn; the tables and all below the towers stay as they are."""


class Tune(Section):
    """A search over fields of the configuration, for loss weights and anything else."""

    space: Annotated[dict[str, Dimension], Role.SEARCH] = {}
    """Fields by their dotted path, such as `tasks.cart.weight` or `train.dense_optimizer.lr`, and the values to try."""
    presets: Annotated[
        list[Literal["loss_weights", "alpha", "learning_rates", "trunk", "embedding_dims"]], Role.SEARCH
    ] = []
    """Spaces that are ready to use, beside `space`; `docs/tuning.md` says what is in each."""
    objective: Objective = Objective(metric="mean_auc")
    """What makes a trial better."""
    sampler: Sampler = TPE(type="tpe")
    """How the next trial is chosen."""
    stopping: Stopping = NoStopping(type="none")
    """When a trial is given up early."""
    max_trials: Annotated[PositiveInt, Role.SEARCH_SIZE] = 24
    """Trials of the search, the default configuration being the first; the repeats come on top."""
    max_concurrent: Annotated[PositiveInt | None, Role.SEARCH_SIZE] = None
    """Trials at a time; null: as many as the cluster has CPUs (or GPUs) for."""
    time_budget_s: Annotated[PositiveFloat | None, Role.SEARCH_SIZE] = None
    """No new trial begins after so many seconds of searching; running trials finish, and the repeats follow."""
    structure_trials: Annotated[NonNegativeInt, Role.SEARCH] = 0
    """First so many trials on everything but loss weights and couplings (alpha); then, with the best structure found, those
    alone. 0: all at once."""
    repeats: Annotated[NonNegativeInt, Role.SEARCH_SIZE] = 3
    """Seeds with which the best trial and the default are trained again at the end, to tell a gain from noise."""
    seed: Annotated[int, Role.SEARCH] = 0
    """Seed of the sampler."""
    gpus_per_trial: Annotated[float, Field(gt=0, le=1), Role.SEARCH_SIZE] = 1.0
    """With `train.use_gpu` and one worker: the share of a GPU that a trial takes, so that several run on one."""
    start: Start | None = None
    """Version to begin with; null: every trial starts from the seed."""
