"""The Python API, re-exported by `raymtl`: what the commands call, for notebooks and programs.

Each function is one command. It raises `raymtl.errors.UserError` for whatever the user can fix. Heavy packages are imported
when a function needs them, so that `import raymtl` is quick.
"""

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, cast

from raymtl.errors import ConfigError
from raymtl.published import ModelStore
from raymtl.quick_imports import without_gc

if TYPE_CHECKING:
    from raymtl.config.data import DayRange
    from raymtl.config.root import Config
    from raymtl.daily.record import Record
    from raymtl.results import (
        EvaluateResult,
        ExplainResult,
        ExportResult,
        ScoreResult,
        ScoreSearchResult,
        TrainResult,
        TuneResult,
    )

Path = str | PathLike[str]
Overrides = Sequence[str] | Mapping[str, Any]


def load_config(path: Path, overrides: Overrides = ()) -> "Config":
    """Read and check a configuration.

    Args:
        path: the YAML file, a path or a URL.
        overrides: fields to change, as `{"train.workers": 4}` or as `["train.workers=4"]`.
    """
    from raymtl.config.load import load_config as load

    return load(fspath(path), override_texts(overrides))


def init_config(
    logs: Path | Sequence[Path],
    out: Path = "config.yaml",
    *,
    name: str = "first",
    labels: Sequence[str] = (),
    ignored: Sequence[str] = (),
    address: str | None = None,
    progress: bool = True,
) -> "Config":
    """Look at logs once, write a first configuration for them, and return it; the comments of the file say why.

    Args:
        logs: a folder or URL, with or without folders of days; or several, each with folders of days.
        out: the file to write, which must not exist. Logs without folders of days are also written by day, to a folder next to
            it: `config-logs` for `config.yaml`.
        name: the name of the run.
        labels: the columns to predict; empty: those that look like it.
        ignored: columns that a model must not see.
        address: as for `train`.
        progress: print how many rows are read.
    """
    from raymtl.init.run import check_free, look, write

    check_free(fspath(out))
    with _count("rows read", progress) as on_count:
        roots = [fspath(one) for one in ([logs] if isinstance(logs, str | PathLike) else logs)]
        draft = look(roots, name=name, labels=labels, ignored=ignored, address=address, on_count=on_count)
    write(draft, fspath(out))
    return load_config(out)


def train(config: "Config | Path", *, address: str | None = None, progress: bool = True) -> "TrainResult":
    """Train the run that a configuration describes, or resume it.

    Args:
        config: what `load_config` returned, or the path of a configuration.
        address: the Ray cluster to join; None: that of the job, or this machine alone.
        progress: print how the run proceeds.
    """
    loaded = _loaded(config)
    _speaker(progress, "checking the configuration and the logs")
    with without_gc():
        from raymtl.dependencies import check_versions
        from raymtl.training import driver
        from raymtl.training.rundir import run_folder

    check_versions()
    with _training_lines(progress) as on_event:
        result = driver.train(loaded, address=address, on_event=on_event)
    return {**result, "run_dir": run_folder(loaded)}


def evaluate(
    run: Path,
    *,
    overrides: Overrides = (),
    checkpoint: Path | None = None,
    address: str | None = None,
    progress: bool = True,
) -> "EvaluateResult":
    """Measure a run's model on the evaluation days of its configuration.

    Args:
        run: folder of the run, `run_dir` of what `train` returned.
        overrides: fields to change, such as `{"data.eval": {"start": "2026-02-01", "end": "2026-02-01"}}`.
        checkpoint: folder of a checkpoint; None: the last one.
        address: as for `train`.
        progress: print each step that takes a while.
    """
    say = _speaker(progress, "checking the checkpoint and the logs")
    from raymtl.dependencies import check_stack
    from raymtl.training import driver

    check_stack()
    return driver.evaluate(
        fspath(run),
        overrides=override_texts(overrides),
        checkpoint=None if checkpoint is None else fspath(checkpoint),
        address=address,
        notify=say,
    )


def tune(config: "Config | Path", *, address: str | None = None, progress: bool = True) -> "TuneResult":
    """Run the search that the section `tune` of a configuration describes, or resume it.

    Args:
        config: what `load_config` returned, or the path of a configuration.
        address: as for `train`.
        progress: print the trials as they proceed.
    """
    loaded = _loaded(config)
    _speaker(progress, "checking the configuration and the logs")
    from raymtl.tuning.check import check

    check(loaded)  # the space and the objective, before the imports that take seconds
    from raymtl.dependencies import check_stack
    from raymtl.telemetry.logs import terminal
    from raymtl.tuning.run import tune as run
    from raymtl.tuning.terminal import TrialLines

    check_stack()
    if not progress:
        return run(loaded, address=address)
    with TrialLines(terminal()) as lines:
        return run(loaded, address=address, on_event=lines)


def run_daily(
    config: "Config | Path",
    date: dt.date | str | None = None,
    *,
    first: dt.date | str | None = None,
    wait_s: float = 0,
    force: bool = False,
    ignore_bounds: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> "list[Record]":
    """Train the published model on the new day's logs and publish the result; RefusedError gives the reason if it is refused.

    Args:
        config: what `load_config` returned, or the path of a configuration with a section `daily`.
        date: the day whose logs are new; None: yesterday (UTC).
        first: first day of a backfill, whose last day is `date`.
        wait_s: maximum wait for the logs, and for a job that holds the lease.
        force: redo days that are already published or refused.
        ignore_bounds: train even if the check for data drift fails.
        address: as for `train`.
        progress: print how the job proceeds.

    Returns:
        The record of every day that was asked for.
    """
    loaded = _loaded(config)
    from raymtl.config.data import yesterday

    last = yesterday() if date is None else parse_day(date, "date")
    begin = None if first is None else parse_day(first, "first")
    if begin is not None and begin > last:
        raise ConfigError(f"first is {begin}, which lies after date, {last}; swap them")
    _speaker(progress, "checking the store and the logs")
    from raymtl.daily.day import DailyRequest
    from raymtl.daily.runner import run_daily as run
    from raymtl.dependencies import check_stack

    check_stack()
    request = DailyRequest(last, begin, force, ignore_bounds, wait_s)
    with _training_lines(progress) as on_event:
        return run(loaded, request, address=address, on_event=on_event or (lambda record: None))


def follow_daily(
    config: "Path | Callable[[], Config]",
    until: dt.date | str | None = None,
    *,
    first: dt.date | str | None = None,
    wait_s: float = 0,
    address: str | None = None,
    progress: bool = True,
) -> None:
    """Stay, and run each day as soon as its logs are ready, on workers that stay too.

    Args:
        config: path of a configuration with a section `daily`, or a function that loads it; read again before each day.
        until: return after this day; None: stay, and run the days up to yesterday (UTC).
        first: the day of the first version; ignored if the store has one.
        wait_s: maximum wait for a job that holds the lease.
        address: as for `train`.
        progress: print how the job proceeds.
    """
    load = config if callable(config) else partial(load_config, config)
    last = None if until is None else parse_day(until, "until")
    begin = None if first is None else parse_day(first, "first")
    if begin is not None and last is not None and begin > last:
        raise ConfigError(f"first is {begin}, which lies after until, {last}; swap them")
    _speaker(progress, "checking the store and the logs")
    from raymtl.daily.day import DailyRequest
    from raymtl.daily.follow import follow
    from raymtl.dependencies import check_stack

    check_stack()
    request = DailyRequest(last or dt.datetime.now(dt.UTC).date(), begin, wait_s=wait_s)
    with _training_lines(progress) as on_event:
        follow(load, request, last, address=address, on_event=on_event or (lambda record: None))


def score(
    version: Path,
    data: Path,
    out: Path,
    days: "str | DayRange | None" = None,
    *,
    keys: Sequence[str] = (),
    snapshot: int | None = None,
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpu: bool = False,
    batch_rows: int = 4096,
    formulas: Path | None = None,
    top: int | None = None,
    per: str | None = None,
    by: str | None = None,
    allow_custom: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> "ScoreResult":
    """Write a published version's predictions for every row of a data set, or finish an interrupted call.

    Args:
        version: folder or URL of a version, `STORE/versions/ID`; that of the store means its current version.
        data: the rows, a folder or URL with `ds=YYYY-MM-DD` partitions.
        out: folder or URL to write to.
        days: `2026-01-01..2026-01-07`, or one day; None: all that are there.
        keys: columns to copy beside the predictions; none: the IDs.
        snapshot: if the rows are a table of Delta Lake or Iceberg, its version or snapshot ID; None: the latest one when the
            scoring starts.
        workers: processes that score; None: as many as fit on the cluster.
        cpus_per_worker: CPUs and threads of each.
        gpu: give each process a GPU.
        batch_rows: rows that the model takes at a time.
        formulas: a YAML file with a `score` section in place of the version's.
        top: write only this many rows of each list of a day, the best ones, with their `rank`; None: all rows.
        per: with `top`, the column that names the list of a row; None: `data.group` and `data.request` together, or the one
            that is set.
        by: with `top`, the column of the output to rank by, such as `score_value`; None: that of the only formula.
        allow_custom: import the classes that the version's slots of `type: custom` name: its code runs.
        address: as for `train`.
        progress: print how far the scoring has come.
    """
    if top is None and (per or by):
        raise ConfigError("--per and --by say which rows are the best; set --top K too, or remove them")
    chosen = day_range(days) if isinstance(days, str) else days
    say = _speaker(progress, "checking the version and the data")
    from raymtl.serving.score import Best, Pool
    from raymtl.serving.score import score as run

    with _count("rows scored", progress) as count:
        result = run(
            fspath(version),
            fspath(data),
            fspath(out),
            days=chosen,
            keys=keys,
            snapshot=snapshot,
            pool=Pool(workers, cpus_per_worker, gpu, batch_rows),
            address=address,
            allow_custom=allow_custom,
            formulas=None if formulas is None else fspath(formulas),
            best=None if top is None else Best(top, per, by),
            progress=count,
            notify=say,
        )
    return cast("ScoreResult", result)


def tune_score(
    version: Path,
    data: Path,
    out: Path,
    days: "str | DayRange | None" = None,
    *,
    formulas: Path | None = None,
    formula: str | None = None,
    trials: int = 2000,
    seed: int = 0,
    workers: int | None = None,
    allow_custom: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> "ScoreSearchResult":
    """Search the exponents, weights or edges of a formula of `score` on a version's predictions, without training.

    Args:
        version: as for `score`.
        data: logs with the labels of `score.gain`, of days that the version was not trained on.
        out: folder or URL to write to; it keeps the predictions, which a later call reads.
        days: as for `score`.
        formulas: as for `score`.
        formula: the formula to search; None: the only one.
        trials: formulas to try.
        seed: of the search, and of the halves of the users to fit and to judge on.
        workers: processes that predict; None: as many as fit on the cluster.
        allow_custom: as for `score`.
        address: as for `train`.
        progress: print how far the search has come.
    """
    chosen = day_range(days) if isinstance(days, str) else days
    say = _speaker(progress, "checking the version and the data")
    from raymtl.serving.score import Pool
    from raymtl.tuning.score.run import tune_score as run

    with _count("formulas tried", progress) as count:
        result = run(
            fspath(version),
            fspath(data),
            fspath(out),
            days=chosen,
            formulas=None if formulas is None else fspath(formulas),
            formula=formula,
            trials=trials,
            seed=seed,
            pool=Pool(workers),
            address=address,
            allow_custom=allow_custom,
            progress=count,
            notify=say,
        )
    return cast("ScoreSearchResult", result)


def export(
    version: Path,
    out: Path,
    *,
    quantize: Literal["none", "fp16", "int8"] = "none",
    format: Literal["torch", "aoti", "onnx"] = "torch",
    table_files: bool = False,
    formulas: Path | None = None,
    allow_custom: bool = False,
) -> "ExportResult":
    """Write a published version as programs that take raw IDs.

    Args:
        version: as for `score`.
        out: folder or URL to write the programs and `model.json` to.
        quantize: how the tables are stored.
        format: `torch` for `torch.export.load`, `aoti` for AOTInductor on CPUs like this one, or `onnx`.
        table_files: write the tables as files beside the programs, without holding a whole one in memory.
        formulas: as for `score`.
        allow_custom: as for `score`.
    """
    from raymtl.serving.export import export_version
    from raymtl.serving.version import open_version

    opened = open_version(fspath(version), allow_custom, None if formulas is None else fspath(formulas))
    facts = export_version(opened, fspath(out), quantize, format, table_files)
    return cast("ExportResult", facts)


def explain(
    version: Path,
    data: Path | None = None,
    *,
    days: "str | DayRange | None" = None,
    baseline: "str | DayRange | None" = None,
    rows: int = 200_000,
    seed: int = 0,
    out: Path | None = None,
    check: bool = False,
    seeds: int = 1,
    train_days: "str | DayRange | None" = None,
    output: Path = "explain-runs",
    allow_custom: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> "ExplainResult":
    """Measure what each column of the logs is worth to a version, and what it costs; see docs/explain.md.

    Args:
        version: as for `score`.
        data: the logs; None: those of the version's configuration.
        days: days that the version was not trained on; None: those it was evaluated on.
        baseline: earlier days; `fall` of the result then says which column explains that a metric is worse than on these.
        rows: rows of the sample.
        seed: of the sample and of the permutations.
        out: file or URL of an HTML page; None: none is written.
        check: train with and without the columns that are proposed to be dropped.
        seeds: trainings of each kind.
        train_days: days of these trainings; None: those of the version.
        output: folder of these runs.
        allow_custom: as for `score`.
        address: as for `train`.
        progress: print how far it has come.
    """
    say = _speaker(progress, "checking the version and the logs")
    from raymtl.explaining.check_drop import DropCheck
    from raymtl.explaining.run import Request
    from raymtl.explaining.run import explain as run
    from raymtl.reports.html import check_page

    chosen, since, trained = (day_range(d) if isinstance(d, str) else d for d in (days, baseline, train_days))
    request = Request(fspath(version), None if data is None else fspath(data), chosen, since, rows, seed, allow_custom)
    drop_check = DropCheck(fspath(output), seeds, trained, address) if check else None
    if out is not None:
        check_page(fspath(out))
    if drop_check is not None:
        from raymtl.dependencies import check_stack

        check_stack()
        drop_check.days(request)  # before the measuring, which takes longer
    with _count("columns measured", progress) as count:
        result = run(request, say, count or (lambda done, of: None))
    if drop_check is not None:
        with _training_lines(progress) as on_event:
            result = drop_check.run(request, result, on_event)
    if out is not None:
        from raymtl.explaining.page import render
        from raymtl.reports.html import write_page

        write_page(fspath(out), render(result))
        result["report"] = fspath(out)
    return cast("ExplainResult", result)


def open_store(path: Path) -> ModelStore:
    """The published versions at a path or URL, such as `s3://bucket/models`; the store need not exist yet."""
    from raymtl.storage.object_store import Store

    return ModelStore(Store.open(fspath(path)))


def _loaded(config: "Config | Path") -> "Config":
    return load_config(config) if isinstance(config, str | PathLike) else config


def override_texts(overrides: Overrides) -> list[str]:
    """Overrides as the texts that `--set` takes."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return list(overrides)


def parse_day(value: dt.date | str, name: str) -> dt.date:
    """A day written YYYY-MM-DD; `name` is what an error calls it."""
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(value)
    except ValueError as error:
        raise ConfigError(f"{name} is `{value}`; write a day as YYYY-MM-DD") from error


def day_range(text: str, name: str = "days") -> "DayRange":
    """The days `A..B`, or one day; `name` is what an error calls them."""
    from pydantic import ValidationError

    from raymtl.config.data import DayRange

    first, dots, last = text.partition("..")
    try:
        return DayRange.model_validate({"start": first, "end": last if dots else first})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name} is `{text}`: {reason}; write 2026-01-01..2026-01-07, or one day") from error


def _speaker(progress: bool, first: str) -> Callable[[str], None]:
    """Print the first line, and return what prints the next ones; without `progress` nothing is printed."""
    if not progress:
        return lambda line: None
    from raymtl.telemetry.logs import terminal

    console = terminal()
    console.print(first)  # before the imports, which take seconds
    return lambda line: console.print(line, markup=False, soft_wrap=True)


@contextmanager
def _training_lines(progress: bool) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    if not progress:
        yield None
        return
    from raymtl.reports.progress import TrainingLines
    from raymtl.telemetry.logs import terminal

    with TrainingLines(terminal()) as lines:
        yield lines


@contextmanager
def _count(what: str, progress: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not progress:
        yield None
        return
    from raymtl.reports.progress import counting
    from raymtl.telemetry.logs import terminal

    with counting(what, terminal()) as count:
        yield count
