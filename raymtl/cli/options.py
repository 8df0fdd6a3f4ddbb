"""The options that several commands share, and how a command ends."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

ConfigFile = Annotated[
    str, typer.Option("--config", "-c", metavar="FILE", help="The YAML configuration, a path or a URL.")
]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override one field, such as train.workers=4; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Make the last line of standard output one JSON object.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything that can be checked without doing it.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="Ray cluster to join; default: that of the job, or this machine alone."),
]
Workers = Annotated[int | None, typer.Option(help="Short for --set train.workers=N.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Short for --set train.use_gpu=true.")]
Checkpoint = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the checkpoint; default: the last one.")]


def finish(as_json: bool, value: Mapping[str, Any]) -> None:
    """Print the result as the last line of standard output, where `--json` asks for it."""
    if as_json:
        print(json.dumps(value, default=str), flush=True)
