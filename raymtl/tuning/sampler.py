"""Sample the next trial and stop bad ones: Optuna's samplers and pruners over the records of a search.

The study is rebuilt from the records for every call. It costs milliseconds, and a search that resumes after a crash makes the
same call.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from raymtl.config.tune import ASHA, NSGA2, TPE, MedianStop, Tune
from raymtl.tuning.objective import ObjectiveEvaluator, stopping_value
from raymtl.tuning.space import Params, SearchDimension, Space
from raymtl.tuning.trial_store import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def sample(
    space: Space, dimensions: Sequence[SearchDimension], fixed: Params, tune: Tune, trials: Sequence[Trial], number: int
) -> tuple[Params, Any]:
    """New parameters for `dimensions`, with those of `fixed`, and the sampler's state for the record of this trial.

    The sampler learns from `trials`, also from running ones; the `number` of the new trial seeds it.
    """
    study = _study(space, tune, trials, _sampler(tune, number))
    trial = study.ask()
    found = dict(fixed)
    for dimension in dimensions:
        if not space.active(dimension, found):
            continue
        d = dimension.distribution
        if isinstance(d, optuna.distributions.CategoricalDistribution):
            found[dimension.name] = trial.suggest_categorical(dimension.name, d.choices)
        elif isinstance(d, optuna.distributions.IntDistribution):
            found[dimension.name] = trial.suggest_int(dimension.name, d.low, d.high, log=d.log)
        elif isinstance(d, optuna.distributions.FloatDistribution):
            found[dimension.name] = trial.suggest_float(dimension.name, d.low, d.high, log=d.log)
    noted = study.trials[trial.number].system_attrs
    return found, {k: v for k, v in noted.items() if k.startswith("NSGAIISampler:")}


def should_prune(tune: Tune, trials: Sequence[Trial], trial: Trial) -> bool:
    """Whether the stopping rule stops a trial that has just reported; stores the pruner's state in the record."""
    pruner = _pruner(tune)
    if pruner is None:
        return False
    with quiet():
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for other in trials:
            if other.number != trial.number and other.kind == trial.kind:
                study.add_trial(_with_history(tune, other))
        study.add_trial(_with_history(tune, trial))
    own = study.trials[-1]
    if not own.intermediate_values:
        return False
    behind = pruner.prune(study, own)
    trial.rungs = dict(study.trials[-1].system_attrs)
    return behind


def rung_rows(tune: Tune, last: int) -> list[int]:
    """Rows at which the stopping rule needs an evaluation of a trial, below `last`."""
    stopping = tune.stopping
    if isinstance(stopping, ASHA):
        found, at = [], stopping.first_rung_rows
        while at < last:
            found.append(at)
            at *= stopping.reduction
        return found
    if isinstance(stopping, MedianStop):
        return list(range(stopping.every_rows, last, stopping.every_rows))
    return []


def _sampler(tune: Tune, number: int) -> BaseSampler:
    seed = (tune.seed * 1_000_003 + number) % 2**32
    options = tune.sampler
    with quiet():
        if isinstance(options, TPE):
            # all dimensions together: loss weights matter only relative to each other
            return TPESampler(
                n_startup_trials=options.startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
            )
        if isinstance(options, NSGA2):
            return NSGAIISampler(population_size=options.population, seed=seed)
        return RandomSampler(seed=seed)


def _pruner(tune: Tune) -> BasePruner | None:
    options = tune.stopping
    if isinstance(options, ASHA):
        return SuccessiveHalvingPruner(min_resource=options.first_rung_rows, reduction_factor=options.reduction)
    if isinstance(options, MedianStop):
        return MedianPruner(n_startup_trials=options.startup_trials)
    return None


def _study(space: Space, tune: Tune, trials: Sequence[Trial], sampler: BaseSampler) -> optuna.Study:
    evaluator = ObjectiveEvaluator(tune.objective)
    default = next((t.metrics for t in trials if t.kind == "default"), None)
    with quiet():
        study = optuna.create_study(directions=["maximize"] * len(evaluator.names), sampler=sampler)
        distributions = {dimension.name: dimension.distribution for dimension in space.dimensions}
        for trial in trials:
            frozen = _frozen(trial, evaluator, default, distributions)
            if frozen is not None:
                study.add_trial(frozen)
    return study


def _frozen(
    trial: Trial,
    evaluator: ObjectiveEvaluator,
    default: dict[str, Any] | None,
    distributions: dict[str, BaseDistribution],
) -> FrozenTrial | None:
    """A record as an Optuna trial; None for the default configuration if the space does not contain it."""
    if not trial.params:
        return None
    limits = evaluator.objective.subject_to
    # A trial that was stopped is behind, but its values are from fewer rows, so it is reported only for a single objective
    reported = trial.status == "finished" or (trial.status == "stopped" and len(evaluator.names) == 1 and not limits)
    values = evaluator.values(trial.metrics) if reported else None
    state = TrialState.RUNNING if not trial.ended else TrialState.FAIL if values is None else TrialState.COMPLETE
    broken = evaluator.violations(trial.metrics, default) if trial.metrics is not None and limits else []
    return optuna.trial.create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions={name: distributions[name] for name in trial.params},
        system_attrs=trial.sampler,
        constraints=dict(zip(limits, broken, strict=True)) if broken and state == TrialState.COMPLETE else None,
    )


def _with_history(tune: Tune, trial: Trial) -> FrozenTrial:
    """A record with its values by rows, for a pruner."""
    found = {entry["rows"]: stopping_value(tune, entry["metrics"]) for entry in trial.history}
    steps = {rows: value for rows, value in found.items() if value is not None}
    states = {"running": TrialState.RUNNING, "finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    state = states.get(trial.status, TrialState.FAIL)
    if state == TrialState.COMPLETE and not steps:
        state = TrialState.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=steps[max(steps)] if state == TrialState.COMPLETE else None,
        intermediate_values=steps,
        system_attrs=trial.rungs,
    )


def quiet() -> warnings.catch_warnings:
    """Optuna marks some of its options as experimental at every use."""
    return warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning)
