"""`raymtl synth` and `raymtl convert`: the commands that make logs."""

from typing import Annotated

import typer
from rich.markup import escape

from raymtl.cli import nest as cli_nest
from raymtl.cli.options import Address, Json, finish
from raymtl.errors import ConfigError
from raymtl.telemetry import logs
from raymtl.words import count_of

console = logs.terminal()


def synth(
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder or URL to write the logs and their config.yaml to.")
    ],
    rows_per_day: Annotated[int, typer.Option(help="Impressions per day.")] = 200_000,
    days: Annotated[int, typer.Option(help="Days; the last one is for evaluation.")] = 4,
    start: Annotated[str, typer.Option(metavar="YYYY-MM-DD", help="First day.")] = "2026-01-01",
    seed: Annotated[int, typer.Option(help="Seed; each seed generates different logs.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes that write; needs --set shards=N of at least as many.")] = 1,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other field of the logs, such as users=1000000 (docs/synth.md)."
        ),
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Write realistic synthetic logs at any size, with the true probabilities and a config that trains on them."""
    from raymtl.config.load import section_from
    from raymtl.reports.progress import counting
    from raymtl.synth.spec import SynthSpec
    from raymtl.synth.write import write_logs

    values = {"rows_per_day": rows_per_day, "days": days, "start": start, "seed": seed}
    spec = section_from(SynthSpec, values, sets, "the synthetic logs")
    with counting("rows written", console) as progress:
        summary = write_logs(spec, out, processes, progress)
    console.print(
        f"{count_of(summary.rows, 'row')} in {count_of(summary.files, 'file')}, {summary.bytes / 2**20:.0f} MiB, "
        f"{summary.seconds:.0f} s"
    )
    for name, mean in summary.label_means.items():
        console.print(f"  {name:<8} mean {mean:.4f}   null {summary.label_nulls[name]:.1%}")
    console.print(f"next: raymtl train --config {summary.config}")
    finish(as_json, vars(summary))


def convert(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The data set; leave it out to list them.")] = None,
    source: Annotated[str, typer.Option(metavar="DIR", help="Folder with the original files.")] = ".",
    out: Annotated[str, typer.Option(metavar="OUT", help="Folder or URL to write to.")] = "data",
    nest: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="SRC OUT", help="Instead of a data set: write the flat logs SRC to OUT with a row per request."
        ),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="With --nest: what the rows of a request share; default: found by its name."
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="With --nest: keep a user's requests together; default: found by its name."
        ),
    ] = None,
    impressions: Annotated[
        list[str],
        typer.Option(
            "--impression",
            metavar="COLUMN",
            help="With --nest: a column of the impressions even if it never varies within a request; may be repeated.",
        ),
    ] = [],  # noqa: B006
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Convert a public data set into logs, with a config for them; or flat logs into nested ones."""
    if nest is not None:
        if name is not None:
            raise ConfigError(f"`{name}` is not expected: --nest takes the two folders SRC and OUT; leave it out")
        if source != "." or out != "data":
            raise ConfigError("--source and --out are options of a data set; --nest takes both folders: leave them out")
        cli_nest.nest(*nest, request, user, impressions, address, as_json)
        return
    if request is not None or user is not None or impressions:
        raise ConfigError("--request, --user and --impression are options of --nest SRC OUT; add it")
    from raymtl.data.convert.registry import CONVERTERS
    from raymtl.data.convert.registry import convert as run

    if name is None:
        for key, converter in CONVERTERS.items():
            console.print(f"[bold]{key}[/]  {converter.summary}\n  needs {escape(converter.source)}")
        return
    config = run(name, source, out)
    console.print(f"next: raymtl train --config {config}")
    finish(as_json, {"config": config})
