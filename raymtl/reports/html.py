"""The report of one run: a single HTML file that needs no network, no server and no script."""

from typing import Any

import pyarrow.fs as pafs

from raymtl.data.writable import check_writable
from raymtl.errors import ConfigError, StorageError
from raymtl.reports import chance, curves, facts, slices, style
from raymtl.reports.load import Run, load_run
from raymtl.reports.page import OPEN_ROWS, Cell, Grid, Key, PageStatus, fill, metric_grid
from raymtl.reports.recalibration import EXPLAINED, recalibration_grid
from raymtl.reports.scores import LEGEND as SCORES_LEGEND
from raymtl.reports.scores import score_grid
from raymtl.reports.tables import metric_tables, metrics_of
from raymtl.storage.filesystem import make_folder_of, open_filesystem, put
from raymtl.storage.folder import Folder
from raymtl.storage.paths import absolute
from raymtl.storage.retry import advice

_GOOD = {"finished", "done", "completed", "complete", "success", "succeeded", "ok"}


def write_report(run_dir: str, out: str | None = None) -> str:
    """Write the report of the run in `run_dir` and return its path.

    Also works for a run that is still running or was stopped: a sentence names what is missing.

    Args:
        run_dir: folder or URL with `config.yaml`, `metrics.jsonl`, `result.json`, or the first of them.
        out: file or URL to write; none: `report.html` in `run_dir`.

    Raises:
        UserError: `run_dir` is missing, or is not the folder of a run.
        StorageError: `run_dir` cannot be read, or `out` cannot be written.
    """
    folder = Folder.open(run_dir)
    run = load_run(folder)
    target = out or folder.path_of("report.html")
    write_page(target, render(run))
    return target


def check_page(target: str) -> None:
    """Raise ConfigError if a page cannot have this name because a folder has it, and StorageError if it cannot be written."""
    folder, _, name = absolute(target).rpartition("/")
    place = Folder.open(folder or "/")
    if place.kind(name) == pafs.FileType.Directory:
        raise ConfigError(f"--out is `{target}`, which is a folder; name a file in it")
    check_writable(place, "the page", "--out")


def write_page(target: str, page: str) -> None:
    """Write a page to a file or URL. Raises StorageError."""
    filesystem, path = open_filesystem(target)
    try:
        make_folder_of(filesystem, path)
        put(filesystem, path, page.encode())
    except OSError as e:
        raise StorageError(
            f"the report cannot be written to `{target}`: {e.strerror or e}; {advice(e)}, or choose another file with --out"
        ) from e


def render(run: Run) -> str:
    """The complete page as text."""
    metrics = run.final or {"tasks": {}, "scenarios": {}}
    tables = metric_tables(metrics)
    colours = style.task_colours(run.tasks)
    return fill(
        "report.html.j2",
        run=run,
        status=run_status(run),
        settings=facts.settings_line(facts.settings(run)),
        keys=_key_numbers(run),
        evaluated=_evaluated(run),
        amber=chance.LEGEND,
        tables=[metric_grid(table, colours, parts=False) for table in metric_tables(metrics, scenarios=False)],
        scenario_tables=[metric_grid(table, colours, parts=True) for table in tables]
        if metrics.get("scenarios")
        else [],
        fold_scenarios=sum(len(table.rows) for table in tables) > OPEN_ROWS,
        recalibration=recalibration_grid(metrics.get("calibration"), colours),
        recalibration_explained=EXPLAINED,
        order=_order(metrics),
        scores=score_grid(metrics),
        scores_legend=SCORES_LEGEND,
        has_best=any(report.get("truth_auc") is not None for report in metrics["tasks"].values()),
        plots={
            "losses": curves.losses(run),
            "auc": curves.eval_auc(run),
            "calibration": slices.calibration(metrics, run.tasks),
            "scenarios": slices.scenario_auc(metrics, run.tasks),
            "order": curves.order_violations(run),
            "speed": curves.speed(run),
        },
        vague=slices.vague_scenarios(metrics, run.tasks),
        evaluations=len(run.evals),
        packages=_pairs((run.result or {}).get("packages")),
    )


def run_status(run: Run) -> PageStatus:
    """The status that the result holds, green if the run finished."""
    if run.result is None:
        return PageStatus("no result yet", good=False)
    text = str(run.result.get("status") or "finished")
    return PageStatus(text, text.lower() in _GOOD)


def _evaluated(run: Run) -> str:
    """Which evaluation the metrics come from."""
    if run.final is None:
        return ""
    rows = f" on {style.count(run.final.get('rows'))} rows" if run.final.get("rows") else ""
    if run.result and metrics_of(run.result)["tasks"]:
        return f"Evaluation of the finished run{rows}."
    last = run.evals[-1]
    return f"Evaluation{rows} after {style.count(last['rows'])} rows of training, the last one so far."


def _key_numbers(run: Run) -> list[Key]:
    result = run.result or {}
    taken, took = facts.seconds(run)
    workers = result.get("workers")
    left_out = result.get("rows_left_out")
    final = run.final or {}
    tasks = final.get("tasks", {})
    main = run.config.get("tasks") or tasks  # mean_auc leaves out derived outputs
    ranked = {task: r for task, r in tasks.items() if task in main and r.get("auc") is not None}
    wrong = (final.get("order_violation_rate") or {}).get("overall")
    found = [
        Key(
            "AUC" if len(ranked) == 1 else "mean AUC",
            style.number(final.get("mean_auc")),
            _auc_remark(ranked, run.final is not None),
        ),
        Key(
            "rows trained",
            style.short_count(facts.rows_trained(run)),
            f"{style.count(left_out)} left out" if left_out is not None else "",
        ),
        Key(
            "steps",
            style.short_count(facts.steps(run)),
            f"{len(run.evals)} evaluation{'s' if len(run.evals) != 1 else ''}",
        ),
        Key(
            "rows per second",
            style.short_count(facts.rows_per_second(run)),
            "all workers" if workers is None else f"{workers} worker{'s' if workers != 1 else ''}",
        ),
        Key(
            "full steps",
            style.percent(result.get("fill", facts.mean_of(run.train, "fill"))),
            "rows per step, of train.batch_size",
        ),
        Key("waiting for data", style.percent(facts.mean_of(run.train, "data_wait")), "mean share of the time"),
        Key("time", style.duration(taken), took),
    ]
    if wrong is not None:
        found.insert(1, Key("out of order", style.percent(wrong), "rows with a child above its parent"))
    return found


def _auc_remark(ranked: dict[str, dict[str, Any]], evaluated: bool) -> str:
    if not ranked:
        return "no task has an AUC" if evaluated else "no evaluation yet"
    best = [report["truth_auc"] for report in ranked.values() if report.get("truth_auc") is not None]
    known = f"; best reachable {style.number(sum(best) / len(best))}" if len(best) == len(ranked) else ""
    return facts.auc_remark(ranked) + known


def _order(metrics: dict[str, Any]) -> Grid | None:
    rates = metrics.get("order_violation_rate") or {}
    rows = [
        (Cell("any edge" if edge == "overall" else edge.replace(">", " > ")), Cell(style.percent(rate, 2)))
        for edge, rate in rates.items()
    ]
    return Grid(("edge", "rows out of order"), rows, narrow=True) if rows else None


def _pairs(packages: Any) -> list[tuple[str, str]]:
    return [(str(k), str(v)) for k, v in packages.items()] if isinstance(packages, dict) else []
