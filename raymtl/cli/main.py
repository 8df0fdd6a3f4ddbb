"""The commands: parse, call, print. Other packages do the work."""

import atexit
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from raymtl import __version__, api, signals
from raymtl.cli import daily as cli_daily
from raymtl.cli import demo, doctor, submit, tune, versions
from raymtl.cli import explain as cli_explain
from raymtl.cli import init as cli_init
from raymtl.cli import logs as cli_logs
from raymtl.cli import serving as cli_serving
from raymtl.cli.environment import check_environment
from raymtl.cli.options import Address, Checkpoint, ConfigFile, DryRun, Gpu, Json, Sets, Workers, finish, load
from raymtl.errors import StorageError, UserError
from raymtl.telemetry import logs
from raymtl.telemetry.lines import last_line
from raymtl.telemetry.output import FoldedTable, replace_stdout
from raymtl.training import ray_log_folders
from raymtl.training.start_lines import joining
from raymtl.words import count_of

app = typer.Typer(
    name="raymtl",
    help="Multi-task ranking models on a Ray cluster: parquet logs in, sharded tables, a report out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
config_app = typer.Typer(help="Show and check configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(versions.app, name="versions")
app.add_typer(tune.app, name="tune")
app.command("init")(cli_init.init)
app.command("daily")(cli_daily.daily)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("score")(cli_serving.score)
app.command("export")(cli_serving.export)
app.command("explain")(cli_explain.explain)
app.command("submit", context_settings={"ignore_unknown_options": True})(submit.submit)
app.add_typer(submit.app, name="jobs")
app.command("synth")(cli_logs.synth)
app.command("convert")(cli_logs.convert)
console = logs.terminal()

Part = Literal["train", "eval", "both"]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, <output>/<name>.")]


def main(arguments: list[str] | None = None) -> None:
    """Entry point: a user's mistake gives one message and an exit code (`docs/cli.md`), never a traceback."""
    codes: list[int] = []
    if signals.installed():
        atexit.register(_leave, codes)  # the first one to be registered is the last one to run
    output = replace_stdout()
    code = 128 + signal.SIGINT
    with suppress(KeyboardInterrupt):  # `signals.end` says what there is to say
        code = run_command(sys.argv[1:] if arguments is None else arguments)
        if code:
            ray_log_folders.keep_logs()
    signals.end(code)
    if (colorama := sys.modules.get("colorama.initialise")) is not None:
        atexit.unregister(colorama.reset_all)  # it writes an escape sequence after the last line
    output.flush()
    if code == 0 and output.error is not None and not isinstance(output.error, BrokenPipeError):
        code = StorageError.exit_code
        last_line(
            f"standard output could not be written ({output.error.strerror}), so part of this command's output is lost; free "
            "space where it goes. The work itself is done",
            code,
        )
    codes.append(code)
    sys.exit(code)


def _leave(codes: list[int]) -> None:
    """End the process after its exit handlers; Python would first take apart every module, which takes longer than the rest."""
    if codes:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(codes[0])


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    signals.begin("stopped; rerun the same command to resume from what is saved" if _resumes(arguments) else "stopped")
    try:
        logs.begin_command()
        check_environment()
        result = app(arguments, standalone_mode=False)
    except UserError as error:
        return _failed(str(error), error.exit_code)
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a mistake in the command line itself
            return _failed(f"{error.format_message()} (see raymtl --help)", 2)
        if signals.received() is None:
            raise
        return 1  # an error of a stopped command; `signals.end` prints that it was stopped
    return result if isinstance(result, int) else 0


def _failed(message: str, code: int) -> int:
    if signals.received() is None:
        last_line(message, code)
    return code


def _resumes(arguments: list[str]) -> bool:
    """Whether a rerun of this command line resumes its work."""
    from raymtl.submission.request import RESUMABLE

    words = [
        word for n, word in enumerate(arguments) if not word.startswith("-") and arguments[max(0, n - 1)] != "--require"
    ]
    looks = "--dry-run" in arguments or words[:2] in (["tune", "status"], ["tune", "report"])
    return bool(words) and words[0] in RESUMABLE and not looks


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    require: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE==VERSION,…", help="Stop with exit code 71 if other versions are installed."),
    ] = None,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if require is not None:
        from raymtl.dependencies import check_required

        check_required(require)


@app.command()
def check(
    config: ConfigFile,
    sets: Sets = [],  # noqa: B006
    part: Annotated[Part, typer.Option(help="The days to read.")] = "both",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Read the logs once and report rows, nulls, IDs, label rates and all violations of the contract."""
    loaded = load(config, sets)
    console.print(joining(address), markup=False, soft_wrap=True)
    from raymtl.data.validation.console import render
    from raymtl.data.validation.run import check_data
    from raymtl.reports.progress import counting
    from raymtl.training.cluster import connect
    from raymtl.training.resources import reading_tasks

    connect(loaded, address)
    with counting("rows read", console) as progress:
        report = check_data(loaded, part, reading_tasks(loaded, workers=0), progress)
    console.print(*render(report), sep="\n")
    finish(as_json, report.to_dict())
    if report.problems:
        raise typer.Exit(65)


@app.command()
def plan(
    config: ConfigFile,
    sets: Sets = [],  # noqa: B006
    gpus: Annotated[int, typer.Option(min=1, help="Total GPUs.")] = 8,
    hbm: Annotated[str, typer.Option(help="Memory of each GPU, such as 80GB or 40GiB.")] = "80GB",
    per_node: Annotated[int, typer.Option(min=1, help="GPUs of one machine.")] = 8,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Plan for CPU workers: --gpus is their number and --hbm their memory.")
    ] = False,
    request_rows: Annotated[
        float, typer.Option(min=1, help="Rows of a request on average, with data.request (`raymtl check` counts them).")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Show where each table goes, how full each device gets and what does not fit; needs no GPU. Exit code 1: does not fit."""
    from raymtl.embeddings.planning import dry_plan, parse_bytes
    from raymtl.reports.plan import plan_tables

    result = dry_plan(
        load(config, sets),
        workers=gpus,
        memory_bytes=parse_bytes(hbm),
        device="cpu" if cpu else "cuda",
        workers_per_node=per_node,
        request_rows=request_rows,
    )
    console.print(*plan_tables(result), sep="\n")
    finish(as_json, result.to_dict())
    if not result.fits:
        raise typer.Exit(1)


@app.command()
def train(
    config: ConfigFile,
    sets: Sets = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Name of the run; the same name resumes the same run.")] = None,
    workers: Workers = None,
    gpu: Gpu = False,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a model, or resume a stopped run."""
    loaded = load(config, sets, {"name": name, "train.workers": workers, "train.use_gpu": gpu or None})
    if dry_run:
        console.print("checking the configuration and the logs")  # before the imports, which take seconds
        from raymtl.dependencies import check_stack
        from raymtl.training import driver

        check_stack()
        facts = driver.dry_run(loaded, address)
        for note in facts["notes"]:
            console.print(note, highlight=False, markup=False)
        console.print(
            f"ready: {count_of(facts['train_rows'], 'training row')} in {count_of(facts['units'], 'unit')}, "
            f"config {facts['config_hash']}"
        )
        finish(as_json, facts)
        return
    result = api.train(loaded, address=address)
    from raymtl.reports.terminal import metric_table

    if result["metrics"]["eval"]:
        console.print(metric_table(result))
        _show_scores(result["metrics"])
    run_dir = result["run_dir"]
    console.print(
        f"{count_of(result['rows_trained'], 'row')} trained, {result['rows_left_out']} left out, "
        f"{result['rows_per_s']:,.0f} rows/s\n"
        f"run: {run_dir}\nnext: raymtl report {run_dir}"
    )
    finish(as_json, result)


def _show_scores(metrics: Any) -> None:
    from raymtl.reports.scores import score_table

    if (table := score_table(metrics)) is not None:
        console.print(table)


@app.command()
def evaluate(
    run_dir: Run,
    sets: Sets = [],  # noqa: B006
    checkpoint: Checkpoint = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's model on the evaluation days of its config, or on others set by --set data.eval=…"""
    result = api.evaluate(run_dir, overrides=sets, checkpoint=checkpoint, address=address)
    from raymtl.reports.terminal import metric_table

    console.print(metric_table(result))
    _show_scores(result["metrics"])
    console.print(f"checkpoint: {result['checkpoint']}")
    finish(as_json, result)


@app.command()
def report(
    run_dirs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folder of a run, <output>/<name>, or of the store of a daily job; several runs: compare them with the first.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File for the page of runs; default: RUN/report.html, or comparison.html next to the first.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file: the curves and metrics of a run, several runs compared, or the last 30 days of a
    daily job."""
    from raymtl.daily.reports.index import write_index
    from raymtl.daily.reports.served import served
    from raymtl.daily.reports.table import day_table
    from raymtl.daily.reports.write import last_records
    from raymtl.reports.compare import write_comparison
    from raymtl.reports.html import write_report
    from raymtl.reports.terminal import comparison_table
    from raymtl.storage.object_store import Store

    if len(run_dirs) > 1:
        path, runs = write_comparison(run_dirs, out)
        console.print(comparison_table(runs))
    elif records := last_records(store := Store.open(run_dirs[0])):
        path = write_index(store, records)
        console.print(day_table(served(store, records).records))
    else:
        path = write_report(run_dirs[0], out)
    console.print(f"report: {path}")
    finish(as_json, {"report": path})


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the configuration."""
    from raymtl.config.reference import json_schema

    print(json.dumps(json_schema(), indent=2))


@config_app.command("show")
def config_show(config: ConfigFile, sets: Sets = []) -> None:  # noqa: B006
    """Check a configuration and print it with every default filled in."""
    from raymtl.config.load import dump_config

    print(dump_config(load(config, sets)), end="")


@config_app.command("presets")
def config_presets() -> None:
    """List the presets of published models and the slots that each one sets."""
    from raymtl.config.presets import PRESETS

    table = FoldedTable("preset", "slots", box=None)
    for name, slots in PRESETS.items():
        table.add_row(name, escape(json.dumps(slots)))
    console.print(table)
