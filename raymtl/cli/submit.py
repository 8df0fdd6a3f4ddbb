"""`raymtl submit` and `raymtl jobs`: run raymtl commands on a cluster through its dashboard."""

import datetime as dt
import json
import sys
from typing import Annotated, Any

import typer

from raymtl import signals
from raymtl.cli.options import Json, finish
from raymtl.errors import ConfigError
from raymtl.telemetry.lines import note
from raymtl.telemetry.logs import terminal
from raymtl.telemetry.output import FoldedTable

console = terminal()
app = typer.Typer(help="List, follow and stop the jobs of a cluster (docs/cluster.md).", no_args_is_help=True)

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Dashboard of the cluster, http://HEAD:8265; default: $RAY_API_SERVER_ADDRESS."),
]
Job = Annotated[str, typer.Argument(metavar="ID", help="Submission id, as `raymtl jobs list` shows it.")]


def submit(
    context: typer.Context,
    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND",
            help="A command that runs on a cluster: train, tune, daily, evaluate, score, check, doctor.",
        ),
    ],
    arguments: Annotated[list[str], typer.Argument(metavar="ARGS", help="Its arguments, as on this machine.")] = [],  # noqa: B006
    address: Address = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id and exit, instead of tailing its log.")
    ] = False,
    working_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Upload this folder of code; default: none, the cluster has raymtl."),
    ] = None,
    pip: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Install these requirements for the job, on every node that it uses."),
    ] = None,
    env: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=VALUE]", help="Environment variable of the job; without VALUE, copied from this machine."
        ),
    ] = [],  # noqa: B006
    job_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Submission id; default: made of command, name and day.")
    ] = None,
    any_versions: Annotated[
        bool, typer.Option("--any-versions", help="Run even if the cluster has other versions of the packages.")
    ] = False,
    entrypoint_num_cpus: Annotated[
        float | None, typer.Option(help="CPUs that the command itself reserves; then it may run on any node.")
    ] = None,
    entrypoint_memory: Annotated[int | None, typer.Option(metavar="BYTES", help="Memory that it reserves.")] = None,
    entrypoint_resources: Annotated[
        str | None, typer.Option(metavar="JSON", help='Custom resources that it reserves, such as {"driver": 1}.')
    ] = None,
) -> None:
    """Run a command on a cluster: upload its configuration, tail its log, exit with its exit code."""
    from raymtl.dependencies import required_versions
    from raymtl.submission.package import environment, runtime_env
    from raymtl.submission.request import read_request

    request = read_request(context.find_root().command, [command, *arguments], job_id)
    variables = environment(env)
    resources = _resources(entrypoint_resources)
    with runtime_env(request.config, working_dir, pip, variables) as job_environment:
        from raymtl.submission.client import connect  # not before: Ray takes a second to import, and mistakes need none
        from raymtl.submission.submit import Driver, entrypoint
        from raymtl.submission.submit import submit as run

        driver = Driver(entrypoint_num_cpus, entrypoint_memory, resources)
        line = entrypoint(request.words, None if any_versions else required_versions())
        jobs = connect(address)
        signals.set_sentence(
            f"stopped; the job may have started: look with `raymtl jobs list --address {jobs.address}`"
        )
        submitted = run(jobs, request, line, job_environment, driver)
    job = submitted.id
    if submitted.how == "running":
        note(f"{job} is already running; nothing was started")
    elif submitted.how == "done":
        note(f"{job} has already succeeded; nothing was started (use another --id to run it again)")
    else:
        note(f"{job} is submitted to {jobs.address}")
    if no_wait:
        print(job)
    elif submitted.how != "done":
        raise typer.Exit(_follow(jobs, job))


@app.command("list")
def list_(address: Address = None, as_json: Json = False) -> None:
    """List the jobs submitted since the cluster's head started, newest last."""
    from raymtl.submission.client import connect

    known = connect(address).known()
    table = FoldedTable("job", "state", "exit code", "began (UTC)", "took", "command", box=None)
    for job, info in known.items():
        began, ended = info.start_time, info.end_time
        table.add_row(
            job,
            info.status.lower(),
            "" if info.driver_exit_code is None else str(info.driver_exit_code),
            f"{dt.datetime.fromtimestamp(began / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}" if began else "",
            f"{(ended - began) / 1000:,.0f} s" if began and ended else "",
            _short(info.entrypoint),
        )
    console.print(table if known else "no job was submitted to this cluster since its head started")
    rows = [
        {
            "id": job,
            "state": str(info.status.value),
            "exit_code": info.driver_exit_code,
            "began_ms": info.start_time,
            "ended_ms": info.end_time,
            "message": (info.message or "").partition("\n")[0],
        }
        for job, info in known.items()
    ]
    finish(as_json, {"jobs": rows})


@app.command()
def logs(
    job: Job,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Tail the log until the job ends, and exit with its exit code.")
    ] = False,
) -> None:
    """Print a job's log so far."""
    from raymtl.submission.client import connect

    jobs = connect(address)
    if follow:
        jobs.info(job)
        raise typer.Exit(_follow(jobs, job))
    print(jobs.logs(job), end="")


@app.command()
def stop(job: Job, address: Address = None) -> None:
    """Stop a job; the same submission resumes its work later."""
    import time

    from raymtl.submission.client import connect

    jobs = connect(address)
    if not jobs.stop(job):
        note(f"{job} had already ended ({jobs.info(job).status.lower()})")
        return
    while not (info := jobs.info(job)).status.is_terminal():
        time.sleep(0.5)
    note(f"{job}: {info.status.lower()}")


def _follow(jobs: Any, job: str) -> int:
    from raymtl.submission.follow import Log, exit_code

    log = Log(jobs, job, sys.stdout)
    left = (
        f"stopped following {job}; the job keeps running\n"
        f"  follow it:  raymtl jobs logs {job} --follow --address {jobs.address}\n"
        f"  stop it:    raymtl jobs stop {job} --address {jobs.address}"
    )
    signals.set_sentence(left)
    try:
        info = log.follow()
    except BrokenPipeError:
        note(left)
        return 130
    code = exit_code(info)
    if code in (1, 127) and log.misses_raymtl():
        note(
            "the cluster's `python` has no raymtl: start Ray from an environment that has it, use an image that has it, or "
            "upload a checkout with --working-dir"
        )
    note(f"{job} {info.status.lower()}, exit code {code}")
    return code


def _resources(text: str | None) -> dict[str, float]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
        return {str(name): float(count) for name, count in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'--entrypoint-resources is `{text}`; it must be a JSON object of numbers, such as {{"driver": 1}}'
        ) from error


def _short(command: str | None) -> str:
    """The command of a job without the program and the version check."""
    words = (command or "").removeprefix("python -m raymtl ")
    return words.split(" ", 2)[-1] if words.startswith("--require ") else words
