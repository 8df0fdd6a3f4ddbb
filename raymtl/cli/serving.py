"""`raymtl score` and `raymtl export`: batch predictions of a published version, and programs for a server."""

from typing import Annotated, Literal

import typer

from raymtl import api
from raymtl.cli.options import Address, Json, finish
from raymtl.telemetry import logs
from raymtl.words import count_of

console = logs.terminal()

VersionOption = Annotated[
    str,
    typer.Option(
        "--version",
        metavar="STORE",
        help="Folder or URL of a published version, STORE/versions/ID; STORE alone means its current one.",
    ),
]
Formulas = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A YAML file with a `score` section in place of the version's."),
]
AllowCustom = Annotated[
    bool,
    typer.Option("--allow-custom", help="Import and run the classes that the version's slots of `type: custom` name."),
]


def score(
    version: VersionOption,
    data: Annotated[
        str, typer.Option(metavar="PATH", help="The rows: a folder or URL with `ds=YYYY-MM-DD` partitions.")
    ],
    out: Annotated[str, typer.Option(metavar="OUT", help="Folder or URL to write to; the same folder resumes.")],
    days: Annotated[
        str | None, typer.Option(metavar="A..B", help="First and last day, or one day; default: all days.")
    ] = None,
    keys: Annotated[
        list[str],
        typer.Option(metavar="COLUMN", help="A column to copy to the output; may be repeated. Default: the IDs."),
    ] = [],  # noqa: B006
    snapshot: Annotated[
        int | None,
        typer.Option(min=0, help="Version (Delta Lake) or snapshot ID (Iceberg) of a table; default: the latest."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Scoring processes; default: as many as the cluster has resources for.")
    ] = None,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPUs and threads of each.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each process a GPU.")] = False,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows of a model batch.")] = 4096,
    formulas: Formulas = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Write only the best K rows of each list of a day.")
    ] = None,
    per: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With --top: names the list of a row; default: group and request."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="With --top: ranks, such as score_value; default: the only formula."),
    ] = None,
    address: Address = None,
    allow_custom: AllowCustom = False,
    as_json: Json = False,
) -> None:
    """Write a published version's predictions for every row of a data set, or resume an interrupted scoring."""
    result = api.score(
        version,
        data,
        out,
        None if days is None else api.day_range(days, "--days"),
        keys=keys,
        snapshot=snapshot,
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpu=gpu,
        batch_rows=batch_rows,
        formulas=formulas,
        top=top,
        per=per,
        by=by,
        allow_custom=allow_custom,
        address=address,
    )
    console.print(
        f"{count_of(result['rows'], 'row')} in {count_of(len(result['files']), 'file')}, "
        f"predictions of version {result['version']}: {out}",
        markup=False,
        soft_wrap=True,
    )
    finish(as_json, result)


def export(
    version: VersionOption,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder or URL to write the programs and model.json to.")],
    quantize: Annotated[
        Literal["none", "fp16", "int8"], typer.Option(help="Quantization of the tables in the programs.")
    ] = "none",
    form: Annotated[
        Literal["torch", "aoti", "onnx"],
        typer.Option(
            "--format", help="For torch.export.load, compiled by AOTInductor for CPUs like this one, or ONNX."
        ),
    ] = "torch",
    table_files: Annotated[
        bool,
        typer.Option(
            "--table-files", help="Write the tables as files beside the programs, never a whole one in memory."
        ),
    ] = False,
    formulas: Formulas = None,
    allow_custom: AllowCustom = False,
    as_json: Json = False,
) -> None:
    """Write a published version as programs that take raw IDs: the full model, and its user part and item part."""
    facts = api.export(
        version,
        out,
        quantize=quantize,
        format=form,
        table_files=table_files,
        formulas=formulas,
        allow_custom=allow_custom,
    )
    sizes = {name: program["bytes"] for name, program in facts["programs"].items()}
    sizes |= {
        f"table {n}": sum(file["bytes"] for file in table["files"]) for n, table in facts.get("tables", {}).items()
    }
    for name, size in sizes.items():
        console.print(f"{name:<{max(map(len, sizes))}} {size / 2**20:8.1f} MiB", markup=False)
    console.print(f"version {facts['version']}: {out}", markup=False, soft_wrap=True)
    finish(as_json, facts)
