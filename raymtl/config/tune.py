"""The search: which fields to search, what makes a trial better, how trials are chosen, and when one is stopped."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.base import Section, Seed, quoted
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
    """A number between the two, log-uniformly distributed."""
    integer: WholeRange | None = None
    """A whole number between the two, both included."""
    log_integer: WholeRange | None = None
    """A whole number between the two, both included, log-uniformly distributed."""
    when: dict[str, Any] = {}
    """Search this only if these fields have these values (or one of a list of values), such as `model.coupler.type: ait`."""

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
    """Constraint on a metric; exactly one of the three."""

    max_drop: NonNegativeFloat | None = None
    """Maximum by which the metric may be worse than that of the baseline configuration."""
    at_least: float | None = None
    """A fixed minimum."""
    at_most: float | None = None
    """A fixed maximum."""

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

    A metric is `mean_auc` or `<task>.<metric>` on the evaluation days; raymtl knows whether higher or lower is better. The
    training loss cannot be used, since it changes with the loss weights that are searched.
    """

    metric: Annotated[str | None, Role.SEARCH] = None
    """One metric."""
    mean: Annotated[Annotated[dict[str, PositiveFloat], Field(min_length=1)] | None, Role.SEARCH] = None
    """A weighted mean of metrics, by name; a metric for which lower is better counts negatively."""
    pareto: Annotated[Annotated[list[str], Field(min_length=2)] | None, Role.SEARCH] = None
    """Several metrics at once; the result is the Pareto front, the trials that no other trial beats in all of them."""
    subject_to: Annotated[dict[str, Bound], Role.SEARCH] = {}
    """Limits on other metrics; a trial that violates one is never the best."""

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
        """The metrics of the objective, without those of `subject_to`."""
        if self.metric is not None:
            return [self.metric]
        return list(self.mean or self.pareto or [])


class TPE(Section):
    """Optuna's tree-structured Parzen estimator: learns from earlier trials; for one objective or several."""

    type: Annotated[Literal["tpe"], Role.SEARCH]
    """Tree-structured Parzen estimator."""
    startup_trials: Annotated[PositiveInt, Role.SEARCH] = 8
    """Random trials before it starts to learn."""


class NSGA2(Section):
    """Optuna's NSGA-II, a genetic search for several objectives; needs many short trials."""

    type: Annotated[Literal["nsga2"], Role.SEARCH]
    """NSGA-II."""
    population: Annotated[int, Field(ge=2), Role.SEARCH] = 12
    """Trials of a generation."""


class RandomSearch(Section):
    """Every trial is random, independent of earlier ones."""

    type: Annotated[Literal["random"], Role.SEARCH]
    """Random."""


class Grid(Section):
    """Every combination of the values; all dimensions must be a `choice`."""

    type: Annotated[Literal["grid"], Role.SEARCH]
    """Grid."""


Sampler = Annotated[TPE | NSGA2 | RandomSearch | Grid, Field(discriminator="type")]


class NoStopping(Section):
    """Every trial trains to the end."""

    type: Annotated[Literal["none"], Role.SEARCH]
    """No trial is stopped."""


class ASHA(Section):
    """Asynchronous successive halving: at every rung only the best of the trials that reached it advance."""

    type: Annotated[Literal["asha"], Role.SEARCH]
    """Asynchronous successive halving."""
    first_rung_rows: Annotated[PositiveInt, Role.SEARCH]
    """Rows trained on at the first rung; each next rung is `reduction` times as many rows. A trial is evaluated at the end of the
    unit in which it passes the rung."""
    reduction: Annotated[int, Field(ge=2), Role.SEARCH] = 3
    """Reduction factor: one in N trials advances from each rung."""
    by: Annotated[str | None, Role.SEARCH] = None
    """Metric to compare trials by; null: the objective, which must not be `pareto` then."""


class MedianStop(Section):
    """Stops a trial if its best value so far is worse than the median of the other trials after the same number of rows."""

    type: Annotated[Literal["median"], Role.SEARCH]
    """Median stopping."""
    every_rows: Annotated[PositiveInt, Role.SEARCH]
    """Rows between two comparisons."""
    startup_trials: Annotated[PositiveInt, Role.SEARCH] = 5
    """Finished trials before any is stopped."""
    by: Annotated[str | None, Role.SEARCH] = None
    """Metric to compare trials by; null: the objective, which must not be `pareto` then."""


Stopping = Annotated[NoStopping | ASHA | MedianStop, Field(discriminator="type")]


class Start(Section):
    """A published version that every trial starts from."""

    store: Annotated[Location | None, Role.SEARCH] = None
    """Folder or URL of its store; null: `daily.store`."""
    version: Annotated[str | None, Role.SEARCH] = None
    """Its name; null: the current one."""
    train: Annotated[Literal["all", "heads"], Role.SEARCH] = "all"
    """`heads`: only towers, coupler and bias are trained; the tables and everything below the towers are frozen."""


class Tune(Section):
    """A search over fields of the configuration, such as loss weights."""

    space: Annotated[dict[str, Dimension], Role.SEARCH] = {}
    """Fields by their dotted path, such as `tasks.cart.weight` or `train.dense_optimizer.lr`, and the values to try."""
    presets: Annotated[
        list[Literal["loss_weights", "alpha", "learning_rates", "trunk", "embedding_dims"]], Role.SEARCH
    ] = []
    """Presets of the search space, added to `space`; `docs/tuning.md` lists their fields."""
    objective: Objective = Objective(metric="mean_auc")
    """What makes a trial better."""
    sampler: Sampler = TPE(type="tpe")
    """How the next trial is chosen."""
    stopping: Stopping = NoStopping(type="none")
    """When a trial is stopped early."""
    max_trials: Annotated[PositiveInt, Role.SEARCH_SIZE] = 24
    """Trials of the search, including the baseline configuration, which is the first; repeats are additional."""
    max_concurrent: Annotated[PositiveInt | None, Role.SEARCH_SIZE] = None
    """Trials at a time; null: as many as the cluster has CPUs (or GPUs) for."""
    time_budget_s: Annotated[PositiveFloat | None, Role.SEARCH_SIZE] = None
    """No new trial starts after this many seconds of searching; running trials finish, and the repeats follow."""
    structure_trials: Annotated[NonNegativeInt, Role.SEARCH] = 0
    """Number of first trials that search everything except loss weights and couplers; the later ones keep the best result and
    search only those. 0: search everything at once."""
    repeats: Annotated[NonNegativeInt, Role.SEARCH_SIZE] = 3
    """Seeds with which the best trial and the baseline are trained again at the end, to distinguish a gain from noise."""
    seed: Annotated[Seed, Role.SEARCH] = 0
    """Seed of the sampler."""
    gpus_per_trial: Annotated[float, Field(gt=0, le=1), Role.SEARCH_SIZE] = 1.0
    """With `train.use_gpu` and one worker: the share of a GPU that a trial reserves, so that several run on one."""
    start: Start | None = None
    """Version that trials start from; null: every trial starts from scratch, with the seed."""
