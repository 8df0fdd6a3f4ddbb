"""`raymtl versions`: list, check, publish and roll back versions."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from raymtl import api
from raymtl.cli.options import Checkpoint, Json, finish
from raymtl.telemetry.logs import terminal
from raymtl.words import count_of

app = typer.Typer(help="List, check, publish and roll back versions of a model.", no_args_is_help=True)
console = terminal()

StoreOption = Annotated[
    str, typer.Option("--store", metavar="STORE", help="Folder or URL of the store that holds the versions.")
]
Version = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="Name, or its date; default: the current one.")
]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="Maximum wait for another process that holds the lease.")
]


@app.command("list")
def list_(store: StoreOption, as_json: Json = False) -> None:
    """List the versions, newest first, and the current writer."""
    from raymtl.cli.version_tables import list_table
    from raymtl.model_store.lease import clock_text, holders

    opened = api.open_store(store)
    versions, claims = opened.versions(), holders(opened.storage)
    console.print(
        list_table(versions) if versions else f"store {opened.path} does not exist or has no version; check --store"
    )
    for claim in claims[:1]:
        console.print(f"in use by {claim.by} for `{claim.purpose}` since {clock_text(claim.since)}", markup=False)
    rows = [
        {"id": v.id, "published": v.published, "by": v.by, "current": v.current, "status": v.status}
        | ({} if v.rolled_back is None else {"rolled_back": v.rolled_back.time})
        | ({"damaged": True} if v.manifest is None else _facts(v.manifest))
        for v in versions
    ]
    finish(as_json, {"versions": rows, "lease": asdict(claims[0]) if claims else None})


@app.command()
def show(store: StoreOption, version: Version = None, as_json: Json = False) -> None:
    """Show one version: its origin, data, metrics and tables."""
    from raymtl.cli.version_tables import show_tables

    opened = api.open_store(store)
    manifest = opened.show(version)
    found = next(v for v in opened.versions() if v.id == manifest.id)
    console.print(*show_tables(manifest, found), sep="\n")
    finish(as_json, {"status": found.status, **manifest.model_dump(mode="json")})


@app.command()
def diff(
    store: StoreOption,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A version: its name, or its date.")],
    new: Annotated[str | None, typer.Argument(metavar="[NEW]", help="Another; default: the current one.")] = None,
    as_json: Json = False,
) -> None:
    """Show what changed between two versions: data, rows, metrics, tables, configuration."""
    from raymtl.cli.version_tables import diff_tables

    difference = api.open_store(store).diff(old, new)
    console.print(*diff_tables(difference), sep="\n")
    finish(as_json, asdict(difference))


@app.command()
def verify(store: StoreOption, version: Version = None, as_json: Json = False) -> None:
    """Read every file of a version and compare its hash with the manifest. Exit code 66: something is missing or damaged."""
    opened = api.open_store(store)
    manifest = opened.show(version)
    faults = opened.verify(manifest.id)
    for fault in faults:
        console.print(fault, markup=False)
    if faults:
        console.print(
            f"version {manifest.id}: {count_of(len(faults), 'file')} missing or damaged; restore from a backup, or run "
            f"`raymtl versions rollback --store {opened.path}`",
            markup=False,
        )
    else:
        console.print(f"{manifest.id}: {_as_written(len(manifest.all_files))}")
    finish(as_json, {"version": manifest.id, "files": len(manifest.all_files), "faults": faults})
    if faults:
        raise typer.Exit(66)


@app.command()
def publish(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run, <output>/<name>.")],
    store: StoreOption,
    checkpoint: Checkpoint = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="NAME", help="Name; default: the last day of its data and six digits."),
    ] = None,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Make a finished run the current version."""
    opened = api.open_store(store)
    manifest = opened.publish(run_dir, checkpoint=checkpoint, version=version, wait_s=wait, notify=_say)
    console.print(
        f"published {manifest.id}: {count_of(len(manifest.all_files), 'file')}, {manifest.total_bytes / 2**20:,.1f} MiB\n"
        f"next: raymtl versions list --store {opened.path}",
        markup=False,
    )
    finish(as_json, {"version": manifest.id, "store": opened.path, **_facts(manifest)})


@app.command()
def rollback(
    store: StoreOption,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Name, or its date; default: the current version's parent."),
    ] = None,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Make an earlier version current again; takes seconds, and nothing is deleted."""
    now, before = api.open_store(store).rollback(version, wait_s=wait, notify=_say)
    if now == before:
        console.print(f"{now} is already the current version; nothing changed", markup=False)
    else:
        console.print(f"current: {now} (was {before})", markup=False)
    finish(as_json, {"current": now, "was": before})


@app.command()
def gc(
    store: StoreOption,
    keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed.")] = False,
    wait: Wait = 0,
    as_json: Json = False,
) -> None:
    """Remove old versions and leftovers of killed writers; keeps the current version, bases, and recently refused candidates."""
    removed = api.open_store(store).gc(keep, dry_run=dry_run, wait_s=wait, notify=_say)
    word = "would remove" if dry_run else "removed"
    console.print(
        f"{word} {count_of(len(removed.versions), 'version')}: {', '.join(removed.versions) or '–'}\n"
        f"{word} {count_of(len(removed.leftovers), 'leftover')}: {', '.join(removed.leftovers) or '–'}",
        markup=False,
    )
    finish(as_json, {**asdict(removed), "dry_run": dry_run})


def _say(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)


def _as_written(files: int) -> str:
    return f"{count_of(files, 'file')} {'matches' if files == 1 else 'match'} the manifest"


def _facts(manifest: Any) -> dict[str, Any]:
    return {
        "data_range": manifest.data_range,
        "snapshots": manifest.snapshots,
        "counts": manifest.counts,
        "bytes": manifest.total_bytes,
        "parent": manifest.parent,
        "base": manifest.base,
    }
