"""The verdict on a search, in a sentence."""

from collections.abc import Mapping
from typing import Any

from raymtl.reports.page import Key, PageStatus
from raymtl.reports.style import duration, short_count
from raymtl.tuning.report.report_data import POINTS, View
from raymtl.tuning.report.tables import field_text

_SHOWN_FIELDS = 5


def verdict(view: View) -> tuple[PageStatus, str]:
    """The status, and the rest of the sentence."""
    best, default = view.best, view.default
    if not view.trials:
        return PageStatus("No trial yet", good=False), ": the search has not started."
    if best is None:
        return _without_best(view)
    if best is default:
        if not view.meets_limits(best):  # else it would be one of those that do
            return PageStatus("No trial keeps the limits", good=False), ": the default stays the recommendation."
        if len(view.trials) == 1:
            return PageStatus("Only the default", good=False), f" was trained so far: {_reached(view)}."
        if len(view.finished) == 1:
            return PageStatus("Nothing to compare", good=False), ": no trial but the default has finished."
        lead = ": no other finished trial is better"
        return PageStatus("The default stays", good=False), f"{lead}. {_reached(view)}."
    fields = _fields(best.fields)
    gains = [g for g in view.result["repeats"] if g["metric"] in view.goals]
    status, text = _over_seeds(view, gains, fields) if gains else _single_runs(view, fields)
    return status, f"{text} {_advice(view)}"


def _single_runs(view: View, fields: str) -> tuple[PageStatus, str]:
    best, default = view.best, view.default
    assert best is not None
    known = default is not None and default.metrics is not None
    before = f", the default {_reached(view, of_default=True)}" if known else ""
    once = "was not repeated with fresh seeds"
    if default is None or not known:
        lead, why = "Not proven", "cannot be compared with the default, which has no result"
    elif view.meets_limits(best) and not view.meets_limits(default):
        lead, why = "Keeps the limits", f"keeps the limits, unlike the default, but {once}"
    elif view.recommended is best:
        lead, why = "Likely better", f"leads by more than the best of equally good trials would by chance, but {once}"
    else:
        lead, why = "Not proven", f"{once}, and one run of each cannot tell a gain from noise"
    return PageStatus(lead, good=False), f": trial {best.number} reached {_reached(view)}{before}{fields}; it {why}."


def _advice(view: View) -> str:
    """What best.yaml holds."""
    assert view.best is not None
    if view.recommended is view.best:
        return f"best.yaml holds trial {view.best.number}."
    return "The default stays the recommendation, and best.yaml holds it."


def _without_best(view: View) -> tuple[PageStatus, str]:
    failed = [t for t in view.trials if t.status == "failed"]
    if len(failed) == len(view.trials):
        lead = "The only trial failed" if len(failed) == 1 else f"All {len(failed)} trials failed"
        return PageStatus(lead, good=False), f": {(failed[0].reason or 'no reason was recorded').rstrip('.')}."
    if any(t.status == "running" for t in view.trials):
        return PageStatus("No result yet", good=False), ": no trial has finished."
    if view.limits and view.finished:
        return PageStatus("No trial keeps the limits", good=False), ", and the default failed."
    return PageStatus("No result", good=False), ": no trial has finished."


def _over_seeds(view: View, gains: list[Mapping[str, Any]], fields: str) -> tuple[PageStatus, str]:
    best = view.best
    assert best is not None
    better = [g for g in gains if g["beyond_noise"] and g["gain"] > 0]
    worse = [g for g in gains if g["beyond_noise"] and g["gain"] <= 0]
    seeds = max(len(g["best"]) for g in gains)
    over = f"over {seeds} fresh seed{'s' if seeds > 1 else ''}"
    mixed = len({g["beyond_noise"] for g in gains}) > 1
    said = "; ".join(_said(view, g, mixed) for g in gains)
    facts = f"{over}: {said}{fields}."
    this = f": trial {best.number}"
    if all(g["beyond_noise"] is None for g in gains):
        text = f": the fresh seeds show no noise to compare trial {best.number} with {facts}"
        return PageStatus("Not proven", good=False), text
    if view.default is not None and view.meets_limits(best) and not view.meets_limits(view.default):
        return PageStatus("Keeps the limits", good=not worse), f", unlike the default{this} compared with it {facts}"
    if better and worse:
        return PageStatus("Mixed", good=False), f"{this} is better in some and worse in others {facts}"
    if better:
        return PageStatus("Better", good=True), f"{this} beats the default {facts}"
    if worse:
        return PageStatus("Worse", good=False), f"{this} loses to the default {facts}"
    return PageStatus("Within the noise", good=False), f"{this} does not differ from the default {facts}"


def _said(view: View, gain: Mapping[str, Any], mixed: bool) -> str:
    """One metric's difference, as the metric itself."""
    name = gain["metric"]
    difference = -gain["gain"] if view.lower(name) else gain["gain"]
    half = gain["interval"]
    about = "" if half is None else f" ± {view.difference(name, half).lstrip('+')}"
    noise = " (within the noise)" if mixed and gain["beyond_noise"] is False else ""
    shown = view.difference(name, difference)
    unit = f" {POINTS}" if shown.endswith(POINTS) and about else ""
    return f"{name} {shown.removesuffix(unit)}{about}{noise}"


def _reached(view: View, of_default: bool = False) -> str:
    trial = view.default if of_default else view.best
    assert trial is not None
    values = [f"{'' if of_default else goal + ' '}{view.show(goal, view.value(trial, goal))}" for goal in view.goals]
    return " and ".join(values)


def _fields(fields: Mapping[str, Any]) -> str:
    if not fields:
        return ""
    shown = [f"{name} {field_text(value)}" for name, value in list(fields.items())[:_SHOWN_FIELDS]]
    more = len(fields) - len(shown)
    return f", with {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"


def notes(view: View) -> list[str]:
    """Warnings for the reader."""
    found = []
    if view.result["status"] != "finished" and view.trials:
        found.append("The search has not finished; `raymtl tune` with the same configuration resumes it.")
    default = view.default
    if default is not None and default.status == "failed":
        found.append(f"The default configuration failed ({default.reason}): there is nothing to compare with.")
    for gain in view.result["repeats"]:
        name = gain["metric"]
        if name not in view.limits or view.best is None:
            continue
        sign = -1 if view.lower(name) else 1
        a, b = (sign * sum(gain[who]) / len(gain[who]) for who in ("default", "best"))
        at = view.limit(name, a)
        if at is not None and (b > at if view.limit_is_ceiling(name) else b < at):
            found.append(
                f"Over fresh seeds trial {view.best.number} breaks the limit on {name}: {view.show(name, b)}, the limit being "
                f"{view.show(name, at)}."
            )
    return found


def keys(view: View) -> list[Key]:
    """The figures to see first."""
    counts, result = view.result["trials"], view.result
    best, default = view.best, view.default
    found = []
    for goal in view.goals[:3]:
        if best is None:
            break
        remark = "the default"
        if best is not default:
            before = None if default is None else view.value(default, goal)
            doubt = "" if best is view.recommended else " (not recommended)"
            remark = f"trial {best.number}{doubt}, default {view.show(goal, before)}"
        found.append(Key(goal, view.show(goal, view.value(best, goal)), remark))
    others = [
        f"{counts[s]} {word}"
        for s, word in (("stopped", "stopped early"), ("failed", "failed"), ("running", "running"))
    ]
    rows = sum(t.rows for t in view.search.trial_store.trials.values())
    repeats = len(view.search.trial_store.of_kind("repeat"))
    found += [
        Key("trials finished", str(counts["finished"]), ", ".join(others[:2] if not counts["running"] else others)),
        Key("training time", duration(result["train_seconds"]), f"{short_count(rows)} rows, with {repeats} repeats"),
        Key("time of the search", duration(result.get("searched_s")), "over all starts"),
        Key(
            "preparation",
            duration(result.get("prepared_s")),
            f"before the first trial; trials took {duration(result['start_seconds'])} to start",
        ),
    ]
    return found
