"""How much each dimension of the space decides whether a trial is among the best."""

import warnings

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from raymtl.objectives.metrics.choose import signed_value
from raymtl.reports.plots import FAINT, INK, is_narrow, panels, short_name, styled, svg
from raymtl.reports.style import MUTED
from raymtl.tuning.report.report_data import View, text
from raymtl.tuning.trial_store import Trial

FEWEST = 8
"""Evaluated trials needed to compute importance."""
TOP = 0.25
"""The share of trials that counts as the best: a tenth of a few dozen trials would be two or three."""
MOST = 12
"""Fields that the plot shows."""

Importances = dict[str, dict[str, float]]
"""By number of the objective, then by dimension: shares that add up to 1."""


def measured(view: View) -> list[Trial]:
    """Trials to learn from: finished ones, and stopped ones, which are not among the best."""
    return [t for t in view.trials if t.status in ("finished", "stopped") and t.metrics is not None and t.params]


def importances(view: View) -> Importances:
    """The importance of every dimension for each number of the objective; empty with too few trials.

    PED-ANOVA compares where the best quarter of the trials lies in a dimension with where all of them lie.
    """
    trials = measured(view)
    if len(trials) < FEWEST:
        return {}
    found = {goal: _of_goal(view, goal, trials) for goal in view.goals}
    return {goal: shares for goal, shares in found.items() if shares}


def _of_goal(view: View, goal: str, trials: list[Trial]) -> dict[str, float]:
    distributions = {dimension.name: dimension.distribution for dimension in view.search.space.dimensions}
    with warnings.catch_warnings(action="ignore"):  # small numbers of trials under a condition, experimental options
        study = optuna.create_study(direction="maximize")
        for trial in trials:
            value = _signed_value(view, trial, goal)
            if value is not None:
                known = {name: distributions[name] for name in trial.params}
                study.add_trial(
                    create_trial(state=TrialState.COMPLETE, value=value, params=trial.params, distributions=known)
                )
        values = [t.value for t in study.trials]
        if len(values) < FEWEST or min(values) == max(values):
            return {}
        shares = get_param_importances(study, evaluator=_evaluator())
    return shares if sum(shares.values()) > 0 else {}


def _signed_value(view: View, trial: Trial, goal: str) -> float | None:
    """Higher is better."""
    if trial.metrics is None:
        return None
    if view.search.evaluator.objective.mean is not None:
        return view.value(trial, goal)
    return signed_value(trial.metrics, goal)


def _evaluator() -> PedAnovaImportanceEvaluator:
    try:
        return PedAnovaImportanceEvaluator(target_quantile=TOP)
    except TypeError:  # its name in Optuna 4.5
        return PedAnovaImportanceEvaluator(baseline_quantile=TOP)


def by_importance(found: Importances) -> list[str]:
    """All dimensions, most important first."""
    names = list(dict.fromkeys(name for shares in found.values() for name in shares))
    return sorted(names, key=lambda name: -sum(shares.get(name, 0.0) for shares in found.values()))


@styled
def importance_bars(view: View, found: Importances) -> str | None:
    """Bars, one panel per number of the objective, the dimensions in one order."""
    if not found:
        return None
    names = by_importance(found)[:MOST]
    drawing, axes = panels(len(found), 0.75 + 0.27 * len(names), columns=2)
    for i, (ax, (goal, shares)) in enumerate(zip(axes, found.items(), strict=True)):
        values = [100 * shares.get(name, 0.0) for name in names]
        bars = ax.barh(range(len(names)), values, color=MUTED[0], height=0.62)
        ax.bar_label(bars, [f"{v:.0f} %" for v in values], padding=4, color=FAINT)
        named = is_narrow() or i % 2 == 0  # the right panel of two has the left one's names
        ax.set_yticks(range(len(names)), [text(short_name(name)) if named else "" for name in names])
        ax.invert_yaxis()
        ax.set_xlim(0, max(values) * 1.15 or 1.0)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("share (%)")
        ax.set_title(f"for {text(goal)}", color=view.colour(goal, INK))
    return svg(drawing, f"Importance of {', '.join(names)} for {', '.join(found)}")
