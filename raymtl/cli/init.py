"""`raymtl init`: a first configuration."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from raymtl.cli.options import Address, Json, finish
from raymtl.errors import ConfigError
from raymtl.telemetry.logs import terminal
from raymtl.telemetry.output import FoldedTable
from raymtl.training.start_lines import joining
from raymtl.words import count_of

if TYPE_CHECKING:
    from raymtl.init.roles import Guess, Role

console = terminal()


def init(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Folder or URL of the logs, with one folder for each day; several are one data set."
        ),
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The configuration to write.")] = "config.yaml",
    name: Annotated[str, typer.Option(help="Name of the run.")] = "first",
    labels: Annotated[
        list[str], typer.Option("--label", metavar="COLUMN", help="A column to predict; may be repeated.")
    ] = [],  # noqa: B006
    ignored: Annotated[
        list[str], typer.Option("--ignore", metavar="COLUMN", help="A column to leave out; may be repeated.")
    ] = [],  # noqa: B006
    from_schema: Annotated[
        bool,
        typer.Option("--from-schema", help="Read no rows: guess from the types, names and footers of the files alone."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take every guess.")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Look at the logs once, and write a configuration to start from, with the reason for each choice (docs/init.md)."""
    if not from_schema:
        console.print(joining(address), markup=False, soft_wrap=True)
    from raymtl.init.roles import choices
    from raymtl.init.run import check_free, look, write
    from raymtl.reports.progress import counting

    check_free(out)
    with counting("rows read", console) as progress:
        draft = look(
            paths,
            name=name,
            labels=labels,
            ignored=ignored,
            address=address,
            on_count=progress,
            read_rows=not from_schema,
        )
    if not yes and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        columns = draft.profile.columns
        unsure = [guess for guess in draft.guesses.values() if guess.is_asked]
        draft = draft.with_answers({g.column: _ask(g, choices(g, columns[g.column])) for g in unsure})
    notes = write(draft, out)
    table = FoldedTable("column", "use", "why", box=None)
    for guess in draft.guesses.values():
        table.add_row(guess.column, guess.role, guess.why)
    console.print(table)
    for note in notes:
        console.print(note, markup=False)
    rows = count_of(draft.profile.rows, "row") + ("" if from_schema else " read")
    console.print(f"{rows}; wrote {out}\nnext: raymtl check -c {out}, then raymtl train -c {out}", markup=False)
    finish(as_json, {"config": out, **draft.to_dict()})


def _ask(guess: "Guess", choices: list["Role"]) -> "Guess":
    """The use of a column that the values leave open, from the user."""
    from raymtl.init.roles import answered

    try:
        role = typer.prompt(f"{guess.column}: {guess.why}\n  use as {', '.join(choices)}", default=guess.role)
        while role not in choices:
            role = typer.prompt(f"  `{role}` is none of {', '.join(choices)}", default=guess.role)
    except typer.Abort as error:  # the input has ended
        raise ConfigError(f"there is no answer on `{guess.column}`; answer, or take every guess with --yes") from error
    return answered(guess, role)
