"""Options that several commands share, and their final JSON line."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymtl import api

if TYPE_CHECKING:
    from raymtl.config.root import Config

ConfigFile = Annotated[
    str, typer.Option("--config", "-c", metavar="FILE", help="The YAML configuration, a path or a URL.")
]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override one field, such as train.workers=4; may be repeated."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, on the last line of standard output.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Run all checks, then stop.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="Ray cluster to join; default: that of the job, or this machine alone."),
]
Workers = Annotated[int | None, typer.Option(help="Short for --set train.workers=N.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Short for --set train.use_gpu=true.")]
Checkpoint = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the checkpoint; default: the last one.")]


def load(path: str, sets: list[str], fields: Mapping[str, Any] | None = None) -> "Config":
    """The configuration with `--set`, and with the options that are short for a field (None: not given)."""
    given = {key: value for key, value in (fields or {}).items() if value is not None}
    return api.load_config(path, [*sets, *api.override_texts(given)])


def finish(as_json: bool, value: Mapping[str, Any]) -> None:
    """With `--json`, print the result as the last line of standard output."""
    if as_json:
        print(json.dumps(value, default=str), flush=True)
