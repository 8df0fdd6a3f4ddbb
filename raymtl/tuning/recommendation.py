"""Which configuration a search recommends: the best trial if its gain over the default is beyond chance, else the default.

The best trial was selected for its high value, so part of its lead is luck. Fresh seeds, the same for both, tell how much.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from raymtl.intervals import mean_interval, t_quantile
from raymtl.objectives.metrics.choose import signed_value
from raymtl.tuning.objective import ObjectiveEvaluator, excess
from raymtl.tuning.search import SEARCHED, Search
from raymtl.tuning.trial_store import Trial

_LEAST_OTHERS = 3
"""Fewer other trials say nothing about the spread of single runs."""
_ERROR = 0.05


def recommended(search: Search, repeats: Sequence[dict[str, Any]]) -> Trial | None:
    """The best trial or the default; `repeats` is what `gains` returned.

    The best trial must gain beyond chance in one number of the objective and lose in none, and keep its limits over the fresh
    seeds. If the default itself breaks a limit that the best trial keeps, the best trial is recommended whatever it gains.
    """
    best, default = search.best(search.trial_store.of_kind(*SEARCHED)), search.trial_store.default
    if best is None or default is None or best is default or default.metrics is None:
        return best
    if not keeps_limits(search, default) and keeps_limits(search, best):
        return best
    names = search.evaluator.names
    if any(g["breaks_limit"] for g in repeats):
        return default
    compared = [g for g in repeats if g["beyond_noise"] is not None and g["metric"] in names]
    signs = [math.copysign(1, g["gain"]) if g["beyond_noise"] else 0 for g in compared] or _single_runs(search, best)
    return best if max(signs) > 0 and min(signs) >= 0 else default


def keeps_limits(search: Search, trial: Trial) -> bool:
    """Whether a trial keeps every limit: by its mean over the fresh seeds, or by its own run if it was not repeated."""
    for name, bound in search.evaluator.objective.subject_to.items():
        value, base = (_mean(search, name, t) for t in (trial, search.trial_store.default))
        if value is None or excess(name, bound, value, base) > 0:
            return False
    return True


def gains(search: Search) -> list[dict[str, Any]]:
    """Best trial against the default over fresh seeds, per number of the objective and per limit.

    The trial's own run is excluded: it was selected for a high value, which includes noise. A difference is taken per seed;
    `interval` is half the 95 % interval of their mean (Student's t), and `beyond_noise` whether it leaves out 0.
    """
    best = search.best(search.trial_store.of_kind(*SEARCHED))
    default = search.trial_store.default
    if best is None or default is None or best is default:
        return []
    evaluator = search.evaluator
    found = []
    for name in dict.fromkeys([*evaluator.names, *evaluator.objective.subject_to]):
        own, base = (_by_seed(search, name, trial) for trial in (best, default))
        seeds = [seed for seed in own if seed in base]
        if not seeds:
            continue
        a, b = [own[seed] for seed in seeds], [base[seed] for seed in seeds]
        gain = mean_interval([x - y for x, y in zip(a, b, strict=True)])
        # without any noise (no shuffle, no dropout, a starting version) the seeds show nothing
        known = gain.half is not None and (len(set(a)) > 1 or len(set(b)) > 1)
        found.append(
            {
                "metric": name,
                "best": a,
                "default": b,
                "gain": gain.mean,
                "interval": gain.half if known else None,
                "beyond_noise": gain.beyond_chance if known else None,
                "breaks_limit": _breaks_limit(evaluator, name, statistics.fmean(a), statistics.fmean(b)),
            }
        )
    return found


def chance_gain(search: Search, index: int) -> float | None:
    """By how much the best of the trials would lead the default by chance if all were equally good, 95 times in 100.

    The spread of the other finished trials stands for the noise of a single run, which it exceeds unless no field matters:
    t(1 − .05 / N, n − 1) · √2 · s for N trials compared with the default (Bonferroni), and n others with standard deviation s.
    None: there are too few others.
    """
    best, default = search.best(search.trial_store.of_kind(*SEARCHED)), search.trial_store.default
    finished = [t for t in search.trial_store.of_kind(*SEARCHED) if t.status == "finished" and t is not default]
    values = [search.evaluator.values(t.metrics) for t in finished if t is not best]
    others = [v[index] for v in values if v is not None]
    if len(others) < _LEAST_OTHERS:
        return None
    return t_quantile(1 - _ERROR / len(finished), len(others) - 1) * math.sqrt(2) * statistics.stdev(others)


def _single_runs(search: Search, best: Trial) -> list[float]:
    """Per number of the objective 1, −1 or 0: better, worse, or not to be told apart from one run each."""
    default = search.trial_store.default
    a, b = search.evaluator.values(best.metrics), search.evaluator.values(default.metrics if default else None)
    if a is None or b is None:
        return [0.0]
    signs = []
    for index, (own, base) in enumerate(zip(a, b, strict=True)):
        chance = chance_gain(search, index)
        signs.append(0.0 if chance is None or abs(own - base) <= chance else math.copysign(1, own - base))
    return signs


def _by_seed(search: Search, name: str, trial: Trial) -> dict[int, float]:
    """Signed values of one number of the objective, or of a limit's metric, of the finished repeats of a trial."""
    repeats = [t for t in search.trial_store.of_kind("repeat") if t.of == trial.number and t.status == "finished"]
    values = {t.seed: _value(search.evaluator, name, t) for t in repeats}
    return {seed: value for seed, value in values.items() if value is not None}


def _mean(search: Search, name: str, trial: Trial | None) -> float | None:
    """The signed mean over the repeats of a trial, or the value of its own run if there is none."""
    if trial is None:
        return None
    repeats = list(_by_seed(search, name, trial).values())
    return statistics.fmean(repeats) if repeats else _value(search.evaluator, name, trial)


def _value(evaluator: ObjectiveEvaluator, name: str, trial: Trial) -> float | None:
    if name in evaluator.names:
        values = evaluator.values(trial.metrics)
        return None if values is None else values[evaluator.names.index(name)]
    return signed_value(trial.metrics or {}, name)


def _breaks_limit(evaluator: ObjectiveEvaluator, name: str, best: float, default: float) -> bool:
    """Whether the mean of the best trial breaks the limit on a metric that the default's keeps; signed values."""
    bound = evaluator.objective.subject_to.get(name)
    return bound is not None and excess(name, bound, best, default) > 0 >= excess(name, bound, default, default)
