"""The page of an explanation: what each column is worth and costs, which say the same, what to drop, why a metric fell."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymtl.config.metrics import METRICS
from raymtl.explaining.fall_page import fall_section
from raymtl.explaining.wording import amount, for_all, interval_words, proposal_text
from raymtl.reports.page import (
    Cell,
    Collapsible,
    Drawing,
    Grid,
    Heading,
    Key,
    Page,
    PageStatus,
    Paragraph,
    Part,
    Section,
    render_page,
)
from raymtl.reports.plots import FAINT, INK, panels, short_name, styled, svg
from raymtl.reports.style import count, duration, number, percent, task_colours
from raymtl.reports.tables import show
from raymtl.words import count_of, gib, visible

_DRAWN = 40
_TOLD = 0.05
_VERDICTS = ("used", "redundant", "useless")
Columns = Mapping[str, Mapping[str, Any]]


def render(result: Mapping[str, Any]) -> str:
    """The complete page of what `raymtl.explain` returned, as text."""
    return render_page(_page(result))


def _page(result: Mapping[str, Any]) -> Page:
    columns, proposal = result["columns"], result["proposal"]
    colours = task_colours(list(result["metrics"]))
    drop = [*proposal["useless"], *proposal["redundant"]]
    of_users = f" of {count_of(result['groups'], 'user')}" if result["groups"] else ""
    sections = [
        None if result["fall"] is None else fall_section(result["fall"], colours, result["version"]),
        _worth_section(result, colours),
        _alike_section(result),
        _drop_section(result),
        _scenario_section(result),
    ]
    return Page(
        title=f"{result['version']} · raymtl explain",
        heading=f"What {result['version']} uses",
        status=PageStatus(f"{_with(columns, 'used')} of {count_of(len(columns), 'column')} used", not drop),
        verdict=f": {proposal_text(result)}",
        meta=[
            f"{count(result['rows'])} rows{of_users}, out of {count(result['rows_of_days'])} of "
            f"{' to '.join(dict.fromkeys(result['days']))} · {result['data']}",
            f"{result['store']} · {duration(result['seconds'])}",
        ],
        notes=result["notes"],
        keys=_keys(result, drop),
        sections=[section for section in sections if section is not None],
    )


def _with(columns: Columns, verdict: str) -> int:
    return sum(column["verdict"] == verdict for column in columns.values())


def _keys(result: Mapping[str, Any], drop: Sequence[str]) -> list[Key]:
    columns, proposal = result["columns"], result["proposal"]
    metrics = [
        Key(task, show(METRICS[found["metric"]], found["value"]), METRICS[found["metric"]].in_words)
        for task, found in result["metrics"].items()
    ]
    size = sum(column["bytes_per_row"] for column in columns.values())
    share = proposal["bytes_per_row"] / size if size else None
    return [
        *metrics[:3],
        Key("useless", str(_with(columns, "useless")), "columns that no task needs"),
        Key("redundant", str(_with(columns, "redundant")), "columns that others stand in for"),
        Key(
            "to drop",
            str(len(drop)),
            f"{percent(share)} of the bytes that are read, {gib(proposal['table_bytes'])} of tables",
        ),
    ]


def by_worth(result: Mapping[str, Any]) -> list[str]:
    """The columns, the most important first: by verdict, then by the largest share of any task's largest importance.

    Tasks that need no column beyond chance do not count, unless that is true of all.
    """
    columns, tests = result["columns"], len(result["metrics"])
    told = [
        task
        for task in result["metrics"]
        if any(_is_above_zero(for_all(c["importance"][task], tests)) for c in columns.values())
    ]
    most = {
        task: max((c["importance"][task]["value"] for c in columns.values()), default=0.0)
        for task in told or result["metrics"]
    }

    def worth(name: str) -> float:
        found = columns[name]["importance"]
        return max((found[task]["value"] / most[task] for task in most if most[task] > 0), default=0.0)

    return sorted(columns, key=lambda name: (_VERDICTS.index(columns[name]["verdict"]), -worth(name)))


def _worth_section(result: Mapping[str, Any], colours: Mapping[str, str]) -> Section:
    order, tasks = by_worth(result), result["metrics"]
    columns = result["columns"]
    text = (
        "By how much the metric of a task gets worse if the column's values are those of other rows, with the interval that "
        f"the verdict uses, {interval_words(len(tasks))}: within it, the task does without the column. Everything that is made "
        "of the column changes with it. Alike: the column that tells most of it, as a share of its information."
    )
    rows = []
    for name in order:
        found = columns[name]
        others = ", ".join(found["stands_in"])
        cells = [
            Cell(visible(name), "name", note=_features(name, found)),
            Cell(
                f"{found['verdict']}{f', with {others}' if others else ''}",
                "part",
                "" if found["verdict"] == "used" else "var(--look)",
            ),
        ]
        for task in tasks:
            entry = for_all(found["importance"][task], len(tasks))
            cells.append(Cell(amount(tasks[task]["metric"], entry), "" if _is_above_zero(entry) else "faint"))
        twin = found["twin"]
        alike = (
            f"{visible(twin['column'])} {percent(twin['association'], 0)}"
            if twin and twin["association"] >= _TOLD
            else "–"
        )
        cells += [
            Cell(alike, "part"),
            Cell(number(found["bytes_per_row"], 1)),
            Cell(gib(found["table_bytes"]) if found["tables"] else "–"),
            Cell(gib(found["training_bytes"]) if found["tables"] else "–"),
        ]
        rows.append(cells)
    heads = ["column", "verdict", *(f"{task}, {METRICS[tasks[task]['metric']].label}" for task in tasks)]
    grid = Grid([*heads, "alike", "bytes per row", "table", "in training"], rows)
    parts: list[Part] = [grid]
    if drawing := _importance_plot(result, order[:_DRAWN], colours):
        parts.insert(0, Drawing(drawing))
    return Section("Importance", text, parts)


def _features(name: str, found: Mapping[str, Any]) -> str:
    """The features of a column, where they have other names."""
    if not found["features"]:
        return "the scenario"
    return "" if found["features"] == [name] else ", ".join(found["features"])


@styled
def _importance_plot(result: Mapping[str, Any], order: Sequence[str], colours: Mapping[str, str]) -> str | None:
    tasks = result["metrics"]
    if not tasks or not order:
        return None
    drawing, axes = panels(len(tasks), 0.9 + 0.24 * len(order))
    for ax, task in zip(axes, tasks, strict=True):
        metric = METRICS[tasks[task]["metric"]]
        ax.axvline(0, color=FAINT, linewidth=0.9)
        for i, name in enumerate(order):
            entry = for_all(result["columns"][name]["importance"][task], len(tasks))
            used = _is_above_zero(entry)
            colour = colours[task] if used else FAINT
            ax.barh(i, entry["value"], height=0.62, color=colour, alpha=0.75)
            if entry["low"] is not None:
                ax.plot([entry["low"], entry["high"]], [i, i], color=INK if used else FAINT, linewidth=1.2)
        ax.set_yticks(range(len(order)), [short_name(visible(name)) for name in order])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        ax.set_title(task, color=colours[task])
        ax.set_xlabel(f"{'rise' if metric.better == 'lower' else 'fall'} of {metric.label} without it")
    return svg(drawing, f"Importance of the columns for {', '.join(tasks)}")


def _alike_section(result: Mapping[str, Any]) -> Section | None:
    if not result["groups_alike"]:
        return Section("Columns that say the same", "No two columns tell enough of each other to be permuted together.")
    text = (
        "Columns that tell much of each other are also permuted together: each hides the worth of the others, since the model "
        "still has these. If a group is worth more than the sum of its columns, one of them stands in for another. Alike: the "
        "share of the information that the two of the group that are least alike have in common. The intervals of "
        "`more together` are 95 % for all groups and tasks at once, as the verdicts need."
    )
    tests = len(result["groups_alike"]) * len(result["metrics"])
    groups: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for group in result["groups_alike"]:
        excess = {task: for_all(entry, tests) for task, entry in group["excess"].items()}
        groups[any(map(_is_above_zero, excess.values()))].append({**group, "excess": excess})
    parts: list[Part] = [_groups_grid(groups[True], result["metrics"])]
    if groups[False]:
        title = f"{count_of(len(groups[False]), 'group')} worth no more than the sum"
        parts.append(Collapsible(title, [_groups_grid(groups[False], result["metrics"])]))
    return Section("Columns that say the same", text, parts)


def _groups_grid(groups: Sequence[Mapping[str, Any]], tasks: Mapping[str, Any]) -> Grid:
    """A row per group and task."""
    rows = []
    for group in groups:
        for n, task in enumerate(tasks):
            metric, excess = tasks[task]["metric"], group["excess"][task]
            rows.append(
                [
                    Cell(", ".join(map(visible, group["columns"])) if n == 0 else "", "name"),
                    Cell(percent(group["association"], 0) if n == 0 else ""),
                    Cell(task, "part"),
                    Cell(amount(metric, group["importance"][task])),
                    Cell(show(METRICS[metric], group["sum"][task])),
                    Cell(amount(metric, excess), "look" if _is_above_zero(excess) else "faint"),
                ]
            )
    columns = ["columns", "alike", "task", "together", "sum of each", "more together"]
    return Grid(columns, rows, frozenset(range(0, len(rows), len(tasks))))


def _is_above_zero(entry: Mapping[str, Any]) -> bool:
    return entry["low"] is not None and entry["low"] > 0


def _drop_section(result: Mapping[str, Any]) -> Section:
    proposal, tasks = result["proposal"], result["metrics"]
    text = proposal_text(result)
    text = text[0].upper() + text[1:]
    parts: list[Part] = []
    if proposal["importance"]:
        text += (
            " Permuted together they cost what the table shows, which is more than a model loses that is trained without them; "
            "--check trains one."
        )
        rows = [
            [
                Cell(task, "name"),
                Cell(METRICS[tasks[task]["metric"]].label, "part"),
                Cell(amount(tasks[task]["metric"], entry)),
            ]
            for task, entry in proposal["importance"].items()
        ]
        parts.append(Grid(["task", "metric", "at most"], rows, narrow=True))
    if check := result["check"]:
        said = (
            f"Trained on {' to '.join(dict.fromkeys(check['train']))} with {count_of(check['seeds'], 'seed')}, and evaluated on "
            f"{' to '.join(dict.fromkeys(check['eval']))}, with all columns and without {', '.join(check['columns'])}. "
            f"The interval is {'Student’s t over the seeds' if check['seeds'] > 1 else 'that of two runs on rows of their own'}."
        )
        parts += [Heading("Checked by training"), Paragraph(said), _check_grid(check)]
    return Section("What to drop", text, parts)


def _check_grid(check: Mapping[str, Any]) -> Grid:
    rows = []
    for task, found in check["tasks"].items():
        metric = METRICS[found["metric"]]
        entry = {"value": found["change"], "low": found["low"], "high": found["high"]}
        sign = 1 if metric.better == "higher" else -1
        change = found["change"]
        beyond = found["low"] is not None and not found["low"] <= 0 <= found["high"]
        worse = beyond and sign * change < 0
        word = Cell("worse", "look") if worse else Cell("better", "good") if beyond else Cell("within chance", "faint")
        rows.append(
            [
                Cell(task, "name"),
                Cell(metric.label, "part"),
                Cell(show(metric, found["with"])),
                Cell(show(metric, found["without"])),
                Cell(amount(found["metric"], entry)),
                word,
            ]
        )
    return Grid(["task", "metric", "with", "without", "change", ""], rows, narrow=True)


def _scenario_section(result: Mapping[str, Any]) -> Section | None:
    order, columns = by_worth(result), result["columns"]
    scenarios = list(dict.fromkeys(name for column in columns.values() for name in column["scenarios"]))
    if not scenarios:
        return None
    parts: list[Part] = []
    for task in result["metrics"]:
        there = [name for name in scenarios if task in columns[order[0]]["scenarios"].get(name, {})]
        metric = result["metrics"][task]["metric"]
        rows = []
        for name in order:
            entries = [columns[name]["scenarios"][scenario][task] for scenario in there]
            cells = [Cell(amount(metric, e), "" if _is_above_zero(e) else "faint") for e in entries]
            rows.append([Cell(visible(name), "name"), *cells])
        parts.append(Collapsible(f"{task}, {METRICS[metric].label}", [Grid(["column", *map(visible, there)], rows)]))
    text = (
        "The same importances within each scenario, each with its own 95 % interval; grey: within it, the scenario does without "
        "the column."
    )
    return Section("Importance by scenario", text, parts)
