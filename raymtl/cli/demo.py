"""`raymtl demo`: the complete workflow on synthetic logs."""

import shlex
import sys
import time
from typing import Annotated

import typer

from raymtl.telemetry.logs import terminal

console = terminal()


def demo(
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder for logs, runs and versions; a stopped demo resumes in it.")
    ] = "demo",
) -> None:
    """Show the complete workflow on synthetic logs: check, training on two workers, report, and three days of the daily job."""
    from raymtl.demo import Demo, run_step

    began = time.monotonic()
    opened = Demo.open(out)
    for n, (title, arguments) in enumerate(opened.steps.items(), 1):
        console.rule(f"[bold]{n}/{len(opened.steps)} {title}", align="left")
        console.print(f"raymtl {shlex.join(arguments)}", style="dim", markup=False, soft_wrap=True)
        sys.stdout.flush()  # before what the step prints
        if code := run_step(arguments):
            raise typer.Exit(code)
    console.rule(f"[bold]done in {time.monotonic() - began:.0f} s", align="left")
    for shown, path in opened.reports.items():
        console.print(f"report of {shown}: {path}", markup=False, soft_wrap=True)
