"""`raymtl daily`: the daily job."""

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymtl import api
from raymtl.cli.options import Address, ConfigFile, Gpu, Json, Sets, Workers, finish, load
from raymtl.errors import ConfigError
from raymtl.telemetry.logs import terminal
from raymtl.words import count_of

if TYPE_CHECKING:
    from raymtl.config.root import Config

console = terminal()


def daily(
    config: ConfigFile,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="The day to train; default: yesterday (UTC).")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="YYYY-MM-DD", help="First day of a backfill; needs --to.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of a backfill.")] = None,
    sets: Sets = [],  # noqa: B006
    workers: Workers = None,
    gpu: Gpu = False,
    address: Address = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Maximum wait for the logs, and for a job that holds the lease.")
    ] = 0,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Stay, and run each day as soon as its logs are ready; with --to until that day."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Redo days that are already published or refused.")] = False,
    ignore_bounds: Annotated[
        bool, typer.Option("--ignore-bounds", help="Train even if the check for data drift fails.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Train the published model on the new day's logs and publish the result, or refuse it with a reason (docs/daily.md)."""
    fields = {"train.workers": workers, "train.use_gpu": gpu or None}
    if follow:
        excluded = {
            "--date": date is not None,
            "--force": force,
            "--ignore-bounds": ignore_bounds,
            "--dry-run": dry_run,
        }
        _follow(
            lambda: load(config, sets, fields),
            first,
            last,
            [name for name, on in excluded.items() if on],
            wait,
            address,
        )
        finish(as_json, {"followed_to": last})
        return
    loaded = load(config, sets, fields)
    until, begin = _days(date, first, last)
    if dry_run:
        console.print("checking the store and the logs")  # before the imports, which take seconds
        from raymtl.daily.day import DailyRequest
        from raymtl.daily.runner import dry_run as daily_dry_run
        from raymtl.dependencies import check_stack

        check_stack()
        found = daily_dry_run(loaded, DailyRequest(until, begin, force, ignore_bounds, wait))
        for step in found:
            console.print(_step_text(step), markup=False)
        finish(as_json, {"would": found})
        return
    records = api.run_daily(
        loaded, until, first=begin, wait_s=wait, force=force, ignore_bounds=ignore_bounds, address=address
    )
    from raymtl.daily.reports.table import day_table, verdict

    for record in records:
        console.print(verdict(record), markup=False)
    if records and loaded.daily is not None:
        console.print(day_table(records))
        console.print(f"next: raymtl report {loaded.daily.store}", markup=False)
    finish(as_json, {"days": [record.model_dump(mode="json") for record in records]})


def _follow(
    load_again: Callable[[], "Config"],
    first: str | None,
    last: str | None,
    excluded: list[str],
    wait: float,
    address: str | None,
) -> None:
    if excluded:
        raise ConfigError(
            f"--follow and {excluded[0]} exclude each other; leave one out (--to names the last day to follow)"
        )
    until = None if last is None else api.parse_day(last, "--to")
    begin = None if first is None else api.parse_day(first, "--from")
    api.follow_daily(load_again, until, first=begin, wait_s=wait, address=address)


def _days(date: str | None, first: str | None, last: str | None) -> tuple[dt.date, dt.date | None]:
    """Last and first day of the options."""
    if (first is None) != (last is None):
        raise ConfigError("only one of --from and --to is set; name both, the first and the last day of the backfill")
    if date is not None and first is not None:
        raise ConfigError("both --date and --from are set; use --date for one day, or --from and --to for several")
    if first is not None and last is not None:
        begin, end = api.parse_day(first, "--from"), api.parse_day(last, "--to")
        if end < begin:
            raise ConfigError(f"--to is {end}, which is before --from, {begin}; swap them")
        return end, begin
    if date is not None:
        return api.parse_day(date, "--date"), None
    from raymtl.config.data import yesterday

    return yesterday(), None


def _step_text(step: dict[str, Any]) -> str:
    if "note" in step:
        return step["note"]
    if step["done"]:
        return f"{step['day']}: already {step['done']}"
    state = f"not ready: {step['not_ready']}"
    if not step["not_ready"]:
        rows, training = step["rows"], step["training_rows"]
        more = "" if training == rows else f", {training:,} to read for training"
        state = f"ready with {count_of(rows, 'row')}{more}"
    start = f"start from {step['starts_from']}" if step["starts_from"] else "train a first version"
    return f"{step['day']}: would {start}; {state}"
