"""The search: exponents, weights or edges of one formula, by the value of the lists of some users.

Optuna's NSGA-II explores the trade-off between the tasks, its TPE refines the best session value: NSGA-II draws a trial in a
millisecond however many there were, TPE takes longer with every trial that it knows.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import torch
from optuna.samplers import NSGAIISampler, TPESampler

from raymtl.config.score import Buckets, Formula, PowerProduct, WeightedSum
from raymtl.errors import ConfigError
from raymtl.tuning.sampler import quiet
from raymtl.tuning.score.sessions import Sessions

_POPULATION = 60
_REFINING = 200
"""Trials of TPE at most, a fifth of all: beyond a few hundred, each costs more than its evaluation."""
_TOLD = 100
"""Best trials of NSGA-II that TPE learns from."""
_DECADES = 3.0
"""Weights of a sum are searched over so many powers of ten on either side of equal contributions."""


@dataclass(frozen=True)
class FormulaTrial:
    """A formula that was tried, and what it is worth on the users to fit on."""

    formula: Formula
    value: float
    """Session value: the mean gain at the top of a list."""
    by_task: tuple[float, ...]
    """Mean labels at the top of a list, task by task."""


Draw = Callable[[optuna.Trial], Formula]


def search(
    formula: Formula, sessions: Sessions, trials: int, seed: int, on_trial: Callable[[int], None] = lambda done: None
) -> tuple[list[FormulaTrial], float]:
    """The formulas of a search, in the order in which they were tried, and the seconds that it took; `formula` is the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: threads would cost more than they do
    try:
        return _search(formula, sessions, trials, seed, on_trial)
    finally:
        torch.set_num_threads(threads)


def _search(
    formula: Formula, sessions: Sessions, trials: int, seed: int, on_trial: Callable[[int], None]
) -> tuple[list[FormulaTrial], float]:
    began = time.monotonic()
    draw = _draws(formula, sessions)
    found = [_tried(formula, sessions)]
    refining = min(trials // 5, _REFINING)
    goals = 1 + len(sessions.tasks)
    with quiet():
        sampler = NSGAIISampler(population_size=min(_POPULATION, max(trials // 4, 4)), seed=seed)
        study = optuna.create_study(directions=["maximize"] * goals, sampler=sampler)
        for _ in range(trials - refining - 1):
            trial = study.ask()
            found.append(made := _tried(draw(trial), sessions))
            study.tell(trial, [made.value, *made.by_task])
            on_trial(len(found))
        second = optuna.create_study(
            direction="maximize", sampler=TPESampler(multivariate=True, seed=seed, n_startup_trials=1)
        )
        for known in sorted(study.trials, key=lambda t: -t.values[0])[:_TOLD]:
            second.add_trial(
                optuna.create_trial(params=known.params, distributions=known.distributions, value=known.values[0])
            )
        for _ in range(refining):
            trial = second.ask()
            found.append(made := _tried(draw(trial), sessions))
            second.tell(trial, made.value)
            on_trial(len(found))
    return found, time.monotonic() - began


def best_of(trials: list[FormulaTrial]) -> FormulaTrial:
    """The best session value, the earlier one of equals."""
    return max(trials, key=lambda trial: trial.value)


def pareto_front(trials: list[FormulaTrial]) -> list[FormulaTrial]:
    """The trials that no other beats in every task, best in the first task first; of equal ones the earliest."""
    distinct = list({trial.by_task: trial for trial in reversed(trials)}.values())
    values = torch.tensor([trial.by_task for trial in distinct], dtype=torch.float64)
    kept = [
        trial
        for trial, own in zip(distinct, values, strict=True)
        if not bool(((values >= own).all(1) & (values > own).any(1)).any())
    ]
    return sorted(kept, key=lambda trial: [-value for value in trial.by_task])


def _tried(formula: Formula, sessions: Sessions) -> FormulaTrial:
    by_task = sessions.means(sessions.values(formula))
    return FormulaTrial(formula, float(by_task @ sessions.weights), tuple(by_task.tolist()))


def _draws(formula: Formula, sessions: Sessions) -> Draw:
    """How a trial becomes a formula of the same type and outputs; a sign of the configuration stays, and so does a 0."""
    if isinstance(formula, PowerProduct):
        return _powers(formula)
    return _weights(formula, sessions) if isinstance(formula, WeightedSum) else _edges(formula, sessions)


def _powers(formula: PowerProduct) -> Draw:
    """Only the ratios matter for the order, so the sum of the sizes stays that of the configuration."""
    searched = [name for name, power in formula.powers.items() if power]
    _needs_two(searched, "powers")
    total = sum(map(abs, formula.powers.values()))

    def draw(trial: optuna.Trial) -> Formula:
        sizes = {name: trial.suggest_float(name, 0.0, 1.0) for name in searched}
        scale = total / max(sum(sizes.values()), 1e-9)
        powers = {name: _rounded(math.copysign(size * scale, formula.powers[name])) for name, size in sizes.items()}
        return formula.model_copy(update={"powers": formula.powers | powers})

    return draw


def _weights(formula: WeightedSum, sessions: Sessions) -> Draw:
    """The weight of the first output that has one stays; those of the others are searched around equal contributions."""
    searched = [name for name, weight in formula.weights.items() if weight]
    _needs_two(searched, "weights")
    first, *others = searched
    sizes = {name: max(float(sessions.outputs[name].abs().mean()), 1e-30) for name in searched}
    base = formula.weights[first]

    def draw(trial: optuna.Trial) -> Formula:
        weights = dict(formula.weights)
        for name in others:
            size = abs(base) * sizes[first] / sizes[name] * 10 ** trial.suggest_float(name, -_DECADES, _DECADES)
            weights[name] = _rounded(math.copysign(size, formula.weights[name]))
        return formula.model_copy(update={"weights": weights})

    return draw


def _edges(formula: Buckets, sessions: Sessions) -> Draw:
    """How many edges, up to those of the configuration, and how far their quantiles bend towards the top."""
    ordered = sessions.outputs[formula.by].double().sort().values

    def draw(trial: optuna.Trial) -> Formula:
        count = trial.suggest_int("edges", 1, len(formula.edges))
        bend = trial.suggest_float("bend", 0.2, 5.0, log=True)
        quantiles = 1 - (1 - torch.arange(1, count + 1).double() / (count + 1)) ** bend
        places = (quantiles * (len(ordered) - 1)).long()
        edges = sorted({_rounded(edge) for edge in ordered[places].tolist()})
        return formula.model_copy(update={"edges": edges})

    return draw


def _needs_two(names: list[str], key: str) -> None:
    if len(names) < 2:
        raise ConfigError(
            f"the formula has one output, so its {key} cannot change the order; give another output a number other than 0"
        )


def _rounded(value: float) -> float:
    """Four digits: what is tried is what the file says."""
    return float(f"{value:.4g}")
