"""`raymtl doctor`: check whether this machine or cluster is ready for a run."""

from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from raymtl.cli.options import Json, Sets, finish
from raymtl.telemetry.logs import terminal

console = terminal()


def doctor(
    config: Annotated[
        str | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Also check the storage and the resources of this configuration."
        ),
    ] = None,
    sets: Sets = [],  # noqa: B006
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="Ray cluster to check; default: that of the job, or this machine alone."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check versions, GPUs, memory, disks, clocks, storage access and the network on every node. Exit code 69: a check failed."""
    from raymtl.config.load import load_config
    from raymtl.doctor.finding import worst
    from raymtl.doctor.run import examine
    from raymtl.doctor.view import lines, verdict

    loaded = None if config is None else load_config(config, sets)
    with console.status("") if console.is_terminal else nullcontext() as status:
        findings = examine(loaded, address, lambda text: status.update(text) if status else None)
    console.print(lines(findings))
    console.print()
    console.print(verdict(findings), style="bold")
    finish(as_json, {"status": worst(findings), "findings": [asdict(finding) for finding in findings]})
    if worst(findings) == "fail":
        raise typer.Exit(69)
