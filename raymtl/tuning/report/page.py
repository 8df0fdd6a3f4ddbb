"""The report of a search: the verdict first, then the evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymtl.reports.facts import settings_line, settings_of
from raymtl.reports.page import Drawing, Heading, Page, Paragraph, Part, Section, render_page
from raymtl.training.rundir import RunFolder
from raymtl.tuning.report import fields, outcome
from raymtl.tuning.report.importance import FEWEST, Importances, by_importance, importance_bars, importances, measured
from raymtl.tuning.report.outcome import Seeds
from raymtl.tuning.report.parallel import MOST, parallel
from raymtl.tuning.report.report_data import View
from raymtl.tuning.report.tables import failures_table, fields_table, gains_table, seeds_table, trials_table
from raymtl.tuning.report.verdict import keys, notes, verdict
from raymtl.tuning.search import Search

NAME = "report.html"


def write_report(search: Search, folder: RunFolder, result: Mapping[str, Any]) -> str:
    """Write the page of a search and return its path or URL; `result` is what `result.json` holds.

    Raises StorageError if the page cannot be written.
    """
    folder.write(NAME, render_page(search_page(search, folder.path, result)))
    return folder.path_of(NAME)


def search_page(search: Search, folder: str, result: Mapping[str, Any]) -> Page:
    """The page; `folder` is that of the search as a user writes it."""
    view = View(search, result)
    status, text = verdict(view)
    found = importances(view)
    sections = [
        _outcome(view),
        _seeds(view),
        _configuration(view),
        _importance(view, found),
        _parallel(view, found),
        _alpha(view),
        _weights(view),
        _learning(view),
        _trials(view),
    ]
    return Page(
        title=f"{search.config.name} · search · raymtl",
        heading=search.config.name,
        status=status,
        verdict=text,
        meta=[_settings(view), f"search for {_objective(view)} · {search.tune.sampler.type} · {folder}"],
        notes=notes(view),
        keys=keys(view),
        sections=[section for section in sections if section is not None],
    )


def _settings(view: View) -> str:
    """What the default is trained with."""
    return f"default: {settings_line(settings_of(view.search.config.model_dump(mode='json')))}"


_LIMITS = {"max_drop": "drops at most", "at_least": "at least", "at_most": "at most"}


def _objective(view: View) -> str:
    mean = view.search.evaluator.objective.mean
    if mean is not None:
        found = "the weighted mean of " + ", ".join(f"{weight:g} × {name}" for name, weight in mean.items())
    else:
        found = " and ".join(view.goals)
    bounds = []
    for name, bound in view.search.evaluator.objective.subject_to.items():
        kind, value = next((k, v) for k, v in bound.model_dump().items() if v is not None)
        bounds.append(f"{name} {_LIMITS[kind]} {value:g}")
    return found + (f", where {', '.join(bounds)}" if bounds else "")


def _drawn(title: str, text: str, drawings: Sequence[tuple[str, str | None]], missing: str) -> Section:
    """Plots under their headings; if there are none, the sentence `missing`."""
    parts: list[Part] = []
    for heading, drawing in drawings:
        if drawing is not None:
            parts += [Heading(heading), Drawing(drawing)] if heading else [Drawing(drawing)]
    return Section(title, text, parts) if parts else Section(title, missing)


_BARS = "Bars: the mean over fresh seeds and its 95 % interval, for the trials that were repeated."


def _outcome(view: View) -> Section:
    hollow = " Hollow trials violate a limit." if view.limits else ""
    limited = ("Against the limits", outcome.constrained(view))
    if len(view.goals) > 1:
        text = (
            "Every finished trial, measured once. No trial beats one on the front in every objective; the best trial on it has "
            f"the highest sum of objectives, each scaled by its standard deviation over the trials. {_BARS}"
        )
        missing = "No trial finished with all objectives measured."
        return _drawn("Pareto front", text + hollow, [("", outcome.pareto(view)), limited], missing)
    text = f"Each trial's value at its end, measured once. {_BARS}"
    missing = "No trial finished with its objective measured."
    return _drawn("Objective by trial", text + hollow, [("", outcome.objective_by_trial(view)), limited], missing)


def _seeds(view: View) -> Section:
    title, gains = "Gain over fresh seeds", view.result["repeats"]
    best, default = view.best, view.default
    if best is None or default is None or best is default:
        return Section(title, "There is no trial to repeat: none is better than the default.")
    by_metric = _by_seed(view)
    if not by_metric or not gains:
        return Section(title, "The default and the best trial have not been repeated with fresh seeds.")
    text = (
        "The default and the best trial, trained again with other seeds, the same for both. Their own runs are excluded: the "
        "best was selected for a high value, which includes noise. ± is half the 95 % interval of the mean difference (Student's "
        "t over the seeds): within it, a difference cannot be told from noise. In the plot a bar is a mean, and a thin line "
        "joins runs of the same seed."
    )
    parts: list[Part] = [gains_table(view, gains)]
    drawing = outcome.seed_comparison(view, by_metric)
    parts += [Drawing(drawing)] if drawing is not None else []
    return Section(title, text, [*parts, seeds_table(view, by_metric)])


def _by_seed(view: View) -> dict[str, Seeds]:
    """Values of finished repeats, by metric and seed."""
    assert view.best is not None
    assert view.default is not None
    who = {view.default.number: "default", view.best.number: "best"}
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name in dict.fromkeys([*view.goals, *view.limits]):
        for trial in view.search.trial_store.of_kind("repeat"):
            value = view.value(trial, name) if trial.status == "finished" else None
            if value is not None and trial.of in who:
                found.setdefault(name, {}).setdefault(trial.seed, {})[who[trial.of]] = value
    return dict(found)


def _configuration(view: View) -> Section | None:
    if view.best is None or view.best is view.default or not view.best.fields:
        return None
    if view.best is not view.recommended:
        text = (
            f"Trial {view.best.number} beside the default, which stays the recommendation, and which best.yaml holds."
        )
        return Section("Best trial, not recommended", text, [fields_table(view)])
    text = (
        f"Trial {view.best.number} beside the default; the complete configuration is in {view.result['best_config']}."
    )
    return Section("Recommended configuration", text, [fields_table(view)])


def _importance(view: View, found: Importances) -> Section:
    text = (
        "How much each dimension decides whether a trial is among the best quarter (PED-ANOVA): where the best lie in it, "
        "compared with where all lie. It reflects only the values tried; with few trials it is a hint."
    )
    trials = len(measured(view))
    missing = (
        f"With {trials} measured trial{'' if trials == 1 else 's'} no importance can be computed; it needs {FEWEST}."
        if trials < FEWEST
        else "The trials hardly differ, so no importance can be computed."
    )
    return _drawn("Importance of the fields", text, [("", importance_bars(view, found))], missing)


def _parallel(view: View, found: Importances) -> Section:
    names = [dimension.name for dimension in view.search.space.dimensions]
    ranked = by_importance(found)
    shown = sorted(names, key=lambda n: ranked.index(n) if n in ranked else len(names))[:MOST]
    drawings = [
        (f"Coloured by {goal}" if len(view.goals) > 1 else "", parallel(view, goal, shown)) for goal in view.goals
    ]
    text = (
        "A line per finished trial, from field to field to the objective, whose better end is above. "
        "The thick line is the best trial, the dashed one the default if the space contains it."
    )
    section = _drawn("All fields together", text, drawings, "This needs two finished trials.")
    if section.parts and len(names) > len(shown):
        more = Paragraph(f"{len(names) - len(shown)} less important fields are not shown.")
        return Section(section.title, section.text, [*section.parts, more])
    return section


def _alpha(view: View) -> Section | None:
    if not fields.searches_alpha(view):
        return None
    text = f"The order of the funnel and each task's metric by the weight of the order loss, a dot per trial. {_BARS}"
    return _drawn("Alpha", text, [("", fields.alpha(view))], "No trial has finished.")


def _weights(view: View) -> Section | None:
    if not fields.searches_weights(view):
        return None
    text = (
        "Each task's metric against its share of the sum of all loss weights, a dot per trial. Other fields differ between the "
        f"trials too. {_BARS}"
    )
    return _drawn("Loss weights", text, [("", fields.weights(view))], "No trial has finished.")


def _learning(view: View) -> Section:
    text = (
        "The objective at every evaluation, a line per trial: amber the best one, dashed the default, faint those that "
        "were stopped or failed."
    )
    missing = "No trial was measured more than once."
    return _drawn("Learning curves", text, [("", outcome.learning_curves(view))], missing)


def _trials(view: View) -> Section:
    if not view.trials:
        return Section("Trials", "No trial has run yet.")
    text = (
        "The recommended one first, then the best; those that violate a limit, were stopped or failed follow. The values of "
        "stopped trials are their last measurement. Repeats are not included."
    )
    parts: list[Part] = [*trials_table(view)]
    if any(t.status == "failed" for t in view.search.trial_store.trials.values()):
        parts += [Heading("Failures"), *failures_table(view)]
    return Section("Trials", text, parts)
