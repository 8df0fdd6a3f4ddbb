"""`raymtl explain`: what the columns of the logs are worth to a version."""

from typing import TYPE_CHECKING, Annotated

import typer

from raymtl import api
from raymtl.cli.options import Address, Json, finish
from raymtl.cli.serving import AllowCustom
from raymtl.errors import ConfigError
from raymtl.telemetry import logs
from raymtl.telemetry.output import FoldedTable
from raymtl.words import count_of, gib, visible

if TYPE_CHECKING:
    from raymtl.results import ExplainResult

console = logs.terminal()
_SHOWN = 40
_RUNS = "explain-runs"


def explain(
    version: Annotated[
        str,
        typer.Argument(
            metavar="STORE",
            help="Folder or URL of a published version, STORE/versions/ID; STORE alone means its current one.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="The logs; default: those of the version's configuration.")
    ] = None,
    days: Annotated[
        str | None,
        typer.Option(
            metavar="A..B", help="Days that the version was not trained on; default: those it was evaluated on."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="A..B", help="Earlier days: name the column that explains a fall since then.")
    ] = None,
    rows: Annotated[int, typer.Option(min=100, help="Rows of the sample.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample and of the permutations.")] = 0,
    out: Annotated[str, typer.Option(metavar="OUT", help="File or URL of the page.")] = "explain.html",
    check: Annotated[bool, typer.Option("--check", help="Train with and without the columns to drop.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind with --check.")] = 1,
    train_days: Annotated[
        str | None, typer.Option(metavar="A..B", help="Days to train on with --check; default: those of the version.")
    ] = None,
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder of the runs of --check.")] = _RUNS,
    address: Address = None,
    allow_custom: AllowCustom = False,
    as_json: Json = False,
) -> None:
    """Measure what each column is worth and costs, which say the same, and what to drop; with --baseline, why a metric fell."""
    given = {"--seeds": seeds != 1, "--train-days": train_days is not None, "--output": output != _RUNS}
    if not check and (idle := [name for name, of in given.items() if of]):
        raise ConfigError(f"{idle[0]} is an option of --check; add it, or leave {idle[0]} out")
    result = api.explain(
        version,
        data,
        days=None if days is None else api.day_range(days, "--days"),
        baseline=None if baseline is None else api.day_range(baseline, "--baseline"),
        rows=rows,
        seed=seed,
        out=out,
        check=check,
        seeds=seeds,
        train_days=None if train_days is None else api.day_range(train_days, "--train-days"),
        output=output,
        address=address,
        allow_custom=allow_custom,
    )
    from raymtl.explaining.wording import amount, found_causes, interval_words, proposal_text

    console.print(_table(result))
    console.print(f"±: {interval_words(len(result['metrics']))}", markup=False)
    for note in result["notes"]:
        console.print(note, markup=False, soft_wrap=True)
    if result["fall"] is not None:
        console.print(found_causes(result["fall"]), markup=False, soft_wrap=True)
    text = proposal_text(result)
    console.print(f"{text[0].upper()}{text[1:]}", markup=False, soft_wrap=True)
    if (checked := result["check"]) is not None:
        for task, found in checked["tasks"].items():
            change = amount(found["metric"], {"value": found["change"], "low": found["low"]})
            console.print(f"trained without them: {task} {found['metric']} {change}", markup=False)
    console.print(f"report: {result['report']}", markup=False, soft_wrap=True)
    finish(as_json, result)


def _table(result: "ExplainResult") -> FoldedTable:
    """The columns, the most important first."""
    from raymtl.explaining.page import by_worth
    from raymtl.explaining.wording import amount, for_all

    table = FoldedTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("column")
    table.add_column("verdict")
    for task, found in result["metrics"].items():
        table.add_column(f"{task} {found['metric']}", justify="right")
    for head in ("bytes/row", "table"):
        table.add_column(head, justify="right")
    order = by_worth(result)
    for name in order[:_SHOWN]:
        found = result["columns"][name]
        importances = [
            amount(result["metrics"][task]["metric"], for_all(found["importance"][task], len(result["metrics"])))
            for task in result["metrics"]
        ]
        size = gib(found["table_bytes"]) if found["tables"] else "–"
        table.add_row(visible(name), found["verdict"], *importances, f"{found['bytes_per_row']:.1f}", size)
    if len(order) > _SHOWN:
        table.caption = f"and {count_of(len(order) - _SHOWN, 'more column')}, in the report"
    return table
