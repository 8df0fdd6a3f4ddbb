"""The driver of a run: checks, Ray Train, and `result.json`."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from raymtl.config.load import config_hash, dump_config, load_config
from raymtl.config.roles import run_fields
from raymtl.config.root import Config
from raymtl.config.task_kinds import BaseRate
from raymtl.data.build_id_maps import make_maps, saved_maps
from raymtl.data.lakehouse.tables import keep_snapshots, with_snapshots
from raymtl.data.read import Input
from raymtl.data.sample import sample_base_rates
from raymtl.data.units import Plan, plan_input, plan_inputs, snapshots_of
from raymtl.data.vocabulary import check_id_files
from raymtl.data.writable import check_writable
from raymtl.dependencies import package_versions
from raymtl.errors import ConfigError
from raymtl.results import EvaluateResult, RunResult
from raymtl.storage.paths import absolute, split_options
from raymtl.telemetry.events import Listener
from raymtl.tracking.run_tracking import RunTracking, TrackedRun, check_packages, lineage, track_run
from raymtl.training.checkpoint_folders import find_checkpoint, last_checkpoint
from raymtl.training.cluster import connect, starts_here
from raymtl.training.entry import run_worker
from raymtl.training.fill import fill_advice, fill_of
from raymtl.training.job import Job
from raymtl.training.local_ray import check_room_for_checkpoints
from raymtl.training.metric_checks import check_metric_names, doubts
from raymtl.training.resources import ResourceGrant, reading_tasks
from raymtl.training.rundir import (
    CONFIG,
    RESULT,
    RunFolder,
    read_result,
    run_folder,
    run_lock,
    run_of,
)
from raymtl.training.session import Session
from raymtl.training.start_lines import PhaseClock, joining, phases_line, starting_workers
from raymtl.training.steps import keep_batch_size, planned_steps, steps_line, too_few_steps, with_batch_size


@dataclass(frozen=True)
class RunPlan:
    """A run that has passed every check that needs no cluster."""

    config: Config
    plans: dict[str, Plan]
    base_rates: dict[str, BaseRate]
    hash: str

    @cached_property
    def steps(self) -> int:
        """Steps of the entire run."""
        return planned_steps(self.config, self.plans["train"], "eval" in self.plans)

    @property
    def notes(self) -> list[str]:
        """What is there and is not read, one sentence each."""
        return list(dict.fromkeys(note for plan in self.plans.values() for note in plan.notes))

    def tracked(self) -> TrackedRun:
        """The run for its trackers."""
        facts = {
            "run": self.config.name,
            "folder": split_options(run_folder(self.config))[0],
            "config_hash": self.hash,
            **lineage({part: plan.days for part, plan in self.plans.items()}, snapshots_of(self.plans)),
        }
        return TrackedRun(self.config.name, self.config.model_dump(mode="json"), facts)

    def facts(self) -> dict[str, Any]:
        """The facts of the checks, for a dry run."""
        return {
            "batch_size": self.config.train.batch_size,
            "steps": self.steps,
            "train_rows": self.plans["train"].rows,
            "snapshots": snapshots_of(self.plans),
            "eval_rows": self.plans["eval"].rows if "eval" in self.plans else 0,
            "units": len(self.plans["train"].units),
            "base_rates": self.base_rates,
            "config_hash": self.hash,
            "run_dir": run_folder(self.config),
            "notes": self.notes,
        }


def dry_run(config: Config, address: str | None = None) -> dict[str, Any]:
    """Run the quick checks and those of the model; returns the facts of the run. Raises UserError."""
    from raymtl.training.shapes import model_entries  # imports torch, which training does without

    ready = prepare(config, address)
    model_entries(ready.config)  # raises what a slot refuses
    return ready.facts()


def prepare(config: Config, address: str | None = None) -> RunPlan:
    """Run the quick checks: files, schemas, a sample of the values, the previous run of that name, and the room for checkpoints
    on this machine if the run starts Ray here. Raises UserError."""
    check_packages(config)
    run_dir = RunFolder.open(run_folder(config))
    previous = _previous_config(run_dir)
    if previous is not None:
        config = keep_snapshots(keep_batch_size(config, previous.train.batch_size), previous.data)
    ready = prepare_inputs(config)
    check_writable(run_dir)
    _compare_with_previous(config, previous, run_dir)
    if starts_here(address):
        check_room_for_checkpoints(config)
    return ready


def prepare_inputs(config: Config) -> RunPlan:
    """Run the checks that need no run folder. Raises UserError."""
    if config.calibration is not None and config.data.eval is None:
        raise ConfigError(
            "calibration is fitted on users of the evaluation days, and data.eval is not set; set data.eval, or remove "
            "calibration (`raymtl daily` fits it on the users that it holds out)"
        )
    check_metric_names(config)
    adam = next((path for path, kind in config.table_optimizers().items() if kind == "adam"), None)
    if adam and not config.train.use_gpu:
        raise ConfigError(
            f"{adam} is `adam`, which fbgemm has for GPUs only; use rowwise_adagrad, adagrad or sgd, "
            "or set train.use_gpu"
        )
    config = with_snapshots(config)
    plans = plan_inputs(config, ["train", "eval"] if config.data.eval is not None else ["train"])
    check_id_files(config, plans["train"].held)
    config = with_batch_size(config, plans["train"].rows)
    return RunPlan(config, plans, sample_base_rates(config, plans["train"]), config_hash(config))


def train(config: Config, *, address: str | None = None, on_event: Listener | None = None) -> RunResult:
    """Train or resume the run that `config` describes and return the content of `result.json`.

    `on_event` gets every record of `metrics.jsonl` and notes, as they occur. Raises UserError with one sentence for anything the
    user can fix.
    """
    clock = PhaseClock()
    run_dir = RunFolder.open(run_folder(config))
    done = read_result(run_dir)
    if done is not None and done["status"] == "finished":
        _compare_with_previous(config, _previous_config(run_dir), run_dir)
        if on_event:
            on_event({"note": f"the run {run_dir.path} has already finished; set another `name` to train again"})
        return cast(RunResult, done)
    notify = (lambda line: on_event({"note": line})) if on_event else (lambda line: None)
    ready = prepare(config, address)
    config = ready.config
    for note in ready.notes:
        notify(note)
    notify(steps_line(config, ready.plans["train"].rows, ready.steps))
    if advice := too_few_steps(config, ready.steps):
        notify(advice)
    clock.end("checks")
    notify(joining(address))
    local = connect(config, address)
    with Session(run_worker) as session:
        grant = session.request(config, local, notify)
        clock.end("ray")
        return _train(ready, run_dir, session, grant, clock, on_event or (lambda event: None))


def _train(
    ready: RunPlan, run_dir: RunFolder, session: Session, grant: ResourceGrant, clock: PhaseClock, on_event: Listener
) -> RunResult:
    config = ready.config

    def notify(line: str) -> None:
        on_event({"note": line})

    with run_lock(run_dir), track_run(config.train.track, ready.tracked(), run_dir, notify) as tracking:
        run_dir.write(CONFIG, dump_config(config))
        tracking.add_file(CONFIG, dump_config(config))
        on_event({"total_rows": ready.plans["train"].rows * config.train.epochs})
        started = time.time()
        maps = make_maps(
            config,
            ready.plans["train"],
            run_dir,
            reading_tasks(config, workers=0),  # the workers have not started yet
            has_trained=find_checkpoint(run_dir) is not None,
            notify=notify,
        )
        if maps:
            clock.end("id_maps")
        inputs = {part: Input(plan, part == "eval", maps) for part, plan in ready.plans.items()}
        job = Job(config, inputs, ready.base_rates, run_dir, None, grant.read_tasks, grant.threads, ready.hash)
        notify(starting_workers(config))
        summary = session.run(job, config, tracking.listener(on_event))
        clock.add(summary["phase_ends"])
        result = _result(ready, summary, time.time() - started)
        if advice := fill_advice(config, ready.plans["train"], result["fill"]):
            notify(advice)
        for doubt in doubts(config, result["metrics"]["eval"]):
            notify(doubt)
        if maps:
            result["id_maps"] = {table: dict(file.notes) for table, file in maps.items()}
        clock.end("end")
        result["start_seconds"] = clock.seconds()
        notify(phases_line(result["start_seconds"]))
        run_dir.write(RESULT, json.dumps(result, indent=2))
        if tracking.is_on:
            _add_results(tracking, run_dir, result, notify)
    return result


def _add_results(tracking: RunTracking, run_dir: RunFolder, result: RunResult, notify: Callable[[str], None]) -> None:
    """Give the trackers the result and the report of a finished run."""
    from raymtl.reports.html import render  # imports matplotlib, which a run without trackers need not wait for
    from raymtl.reports.load import load_run

    tracking.add_file(RESULT, json.dumps(result, indent=2))
    try:
        tracking.add_file("report.html", render(load_run(run_dir)))
    except Exception as error:  # the run itself is done
        notify(f"the trackers get no report ({error}); write it with `raymtl report {run_dir.path}`")


def _result(ready: RunPlan, summary: dict[str, Any], seconds: float) -> RunResult:
    """The content of `result.json`."""
    config, progress, plans = ready.config, summary["progress"], ready.plans
    evaluations = progress["evaluations"]
    scored = [e for e in evaluations if e["score"] is not None]
    best = max(scored, key=lambda e: e["score"], default=None)
    all_epochs = progress["epoch"] >= config.train.epochs
    return {
        "status": "finished",
        "metrics": metrics_section(evaluations[-1]["metrics"] if evaluations else None),
        "best": None if best is None else {k: best[k] for k in ("step", "epoch", "units", "score")},
        "rows_trained": progress["rows"],
        "rows_left_out": plans["train"].rows * config.train.epochs - progress["rows"] if all_epochs else 0,
        "rows_per_s": progress["rows"] / max(progress["train_seconds"], 1e-9),
        "steps": progress["step"],
        "fill": fill_of(config, progress["rows"], progress["step"]),
        "epochs": progress["epoch"],
        "starts": progress["starts"],
        "seconds": round(seconds, 1),
        "config_hash": ready.hash,
        "base_rates": {name: float(rate) for name, rate in ready.base_rates.items()},
        "data_range": {part: list(plan.days) for part, plan in plans.items()},
        "snapshots": snapshots_of(plans),
        "workers": summary["workers"],
        "precision": summary["precision"],
        "parameters": summary["parameters"],
        "sharding": summary["sharding"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "packages": package_versions(),
    }


def metrics_section(metrics: dict[str, Any] | None) -> dict[str, Any]:
    """The `metrics` of a result: `eval` by task, then `scenarios` and the other results of `EvalMetrics.compute`,
    without `group_effects`, which are large."""
    if metrics is None:
        return {"eval": {}, "scenarios": {}}
    return {"eval": metrics["tasks"], **{k: v for k, v in metrics.items() if k not in ("tasks", "group_effects")}}


def evaluate(
    run: str,
    *,
    overrides: list[str],
    checkpoint: str | None,
    address: str | None,
    notify: Callable[[str], None] = lambda line: None,
) -> EvaluateResult:
    """Metrics of a run's checkpoint (none: its last one) on the evaluation days of its configuration, changed by `overrides`.

    `notify` gets a line for each step that takes a while.
    """
    from raymtl.training.shapes import check_fits  # imports torch, which training does without

    run_dir = RunFolder.open(absolute(run_of(run)))  # Ray's workers run in other folders
    folder = absolute(checkpoint) if checkpoint else last_checkpoint(run_dir).path
    config = load_config(run_dir.path_of(CONFIG), overrides)
    check_fits(config, folder)
    plan, maps = plan_input(config, "eval"), saved_maps(config, run_dir)
    config = with_batch_size(config, plan.rows)
    for note in plan.notes:
        notify(note)
    notify(joining(address))
    local = connect(config, address)
    rates = dict.fromkeys(config.active_tasks(), 0.5)  # the checkpoint has the biases
    inputs = {"eval": Input(plan, True, maps)}
    with Session(run_worker) as session:
        grant = session.request(config, local, notify)
        job = Job(
            config,
            inputs,
            rates,
            run_dir,
            None,
            grant.read_tasks,
            grant.threads,
            config_hash(config),
            evaluate_checkpoint=folder,
        )
        notify(starting_workers(config))
        summary = session.run(job, config, None)
    return {
        "checkpoint": folder,
        "step": summary["progress"]["step"],
        "data_range": {"eval": list(plan.days)},
        "snapshots": snapshots_of({"eval": plan}),
        "metrics": metrics_section(summary["metrics"]),
    }


def _previous_config(run_dir: RunFolder) -> Config | None:
    """The configuration of the earlier run in the folder; None: there is none."""
    text = run_dir.read_text(CONFIG)
    if text is None or not (run_dir.read(RESULT) or find_checkpoint(run_dir)):
        return None
    try:
        return load_config(None, text=text)
    except ConfigError as error:
        raise ConfigError(
            f"cannot read {run_dir.path_of(CONFIG)} of the earlier run: it is damaged or from another version of raymtl "
            f"({error}); set another `name`"
        ) from error


def _compare_with_previous(config: Config, previous: Config | None, run_dir: RunFolder) -> None:
    """Refuse to resume a run with another configuration, which would silently mix two models."""
    if previous is None:
        return
    kept = keep_snapshots(keep_batch_size(config, previous.train.batch_size), previous.data)
    before, now = run_fields(previous), run_fields(kept)
    differing = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
    if not differing:
        return
    first = differing[0]
    raise ConfigError(
        f"the run {run_dir.path} was started with another configuration: {first} was {before.get(first)!r} and is now "
        f"{now.get(first)!r}"
        + (f" ({len(differing) - 1} more keys differ)" if len(differing) > 1 else "")
        + "; set another `name`, or restore the old values to resume it"
    )
