"""Drawing the next trial, and giving up the bad ones: Optuna's samplers and pruners over the records of a search.

A study is rebuilt from the records for every question. It costs milliseconds, and a search that resumes after a kill asks
the very same question.
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
from raymtl.tuning.space import Axis, Draw, Space
from raymtl.tuning.trial_store import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw(
    space: Space, axes: Sequence[Axis], fixed: Draw, tune: Tune, trials: Sequence[Trial], number: int
) -> tuple[Draw, Any]:
    """A new draw of `axes`, `fixed` beside it, and what the sampler wants to find in the record of this trial.

    `trials` are those to learn from, the ones under way too; `number` of the new trial seeds the sampler.
    """
    study = _study(space, tune, trials, _sampler(tune, number))
    trial = study.ask()
    found = dict(fixed)
    for axis in axes:
        if not space.active(axis, found):
            continue
        d = axis.distribution
        if isinstance(d, optuna.distributions.CategoricalDistribution):
            found[axis.name] = trial.suggest_categorical(axis.name, d.choices)
        elif isinstance(d, optuna.distributions.IntDistribution):
            found[axis.name] = trial.suggest_int(axis.name, d.low, d.high, log=d.log)
        elif isinstance(d, optuna.distributions.FloatDistribution):
            found[axis.name] = trial.suggest_float(axis.name, d.low, d.high, log=d.log)
    noted = study.trials[trial.number].system_attrs
    return found, {k: v for k, v in noted.items() if k.startswith("NSGAIISampler:")}


def should_prune(tune: Tune, trials: Sequence[Trial], trial: Trial) -> bool:
    """Whether the stopping rule gives up a trial that has just reported; notes in it what the rule wants to find again."""
    pruner = _pruner(tune)
    if pruner is None:
        return False
    with _quiet():
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
    """Rows seen at which a trial is to be measured for the stopping rule, below `last`."""
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
    with _quiet():
        if isinstance(options, TPE):
            # all dimensions together: loss weights only mean something beside each other
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
    with _quiet():
        study = optuna.create_study(directions=["maximize"] * len(evaluator.names), sampler=sampler)
        distributions = {axis.name: axis.distribution for axis in space.axes}
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
    """A record as Optuna has it; None for the default configuration where the space does not hold it."""
    if not trial.draw:
        return None
    limits = evaluator.objective.subject_to
    # A trial that was stopped is behind, but its numbers are those of fewer rows: only a single objective can be told so
    told = trial.status == "finished" or (trial.status == "stopped" and len(evaluator.names) == 1 and not limits)
    values = evaluator.values(trial.metrics) if told else None
    state = TrialState.RUNNING if not trial.ended else TrialState.FAIL if values is None else TrialState.COMPLETE
    broken = evaluator.excess(trial.metrics, default) if trial.metrics is not None and limits else []
    return optuna.trial.create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=trial.draw,
        distributions={name: distributions[name] for name in trial.draw},
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


def _quiet() -> warnings.catch_warnings:
    """Optuna marks some of its options as experimental at every use."""
    return warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning)
