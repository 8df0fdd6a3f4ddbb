"""`raymtl convert --nest`: flat logs with a row per request instead."""

from collections.abc import Sequence

from raymtl import signals
from raymtl.cli.options import finish
from raymtl.telemetry.logs import terminal
from raymtl.training.start_lines import joining
from raymtl.words import count_of

console = terminal()


def nest(
    source: str,
    out: str,
    request: str | None,
    user: str | None,
    impressions: Sequence[str],
    address: str | None,
    as_json: bool,
) -> None:
    """Print which columns it chose, how far it is, and what to set in a configuration."""
    from raymtl.init.nesting import choose_keys, nest_logs, open_source
    from raymtl.reports.progress import counting

    logs = open_source(source)
    keys = choose_keys(logs, request, user)
    order = ", ".join(f"{name} {column}" for name, column in vars(keys).items() if column is not None)
    _print(f"columns that decide about the order: {order}")
    _print(joining(address))
    signals.set_sentence(f"stopped; `{out}` is not complete: rerun the same command, which starts again")
    with counting("rows read", console) as on_read, counting("rows written", console) as on_written:
        result = nest_logs(
            logs,
            out,
            keys,
            impressions,
            address=address,
            on_read=on_read,
            on_written=on_written,
            user_given=user is not None,
        )
    nested = result.nested
    if keys.user is not None and nested.keys.user is None:
        _print(f"`{keys.user}` varies within requests, so requests stand in any order")
    _print(
        f"{count_of(nested.rows, 'row')} of {count_of(nested.requests, 'request')} (the largest has {nested.largest:,}) in "
        f"{count_of(nested.files, 'file')}, {nested.bytes / 2**20:.0f} MiB"
    )
    _print(f"columns with a value per request: {', '.join(nested.of_requests)}")
    _print(f"columns of the impressions: {', '.join(nested.of_impressions)}")
    if result.config is None:
        _print("set `data.impressions: impressions`, and `side: user` for the features of the columns per request")
        _print(f"next: raymtl init {out}")
    else:
        _print(f"features of the side `user`: {', '.join(result.user_side)}")
        _print(f"next: raymtl train --config {result.config}")
    facts = {**vars(nested), "keys": vars(nested.keys)}
    finish(as_json, {"path": result.path, "config": result.config, "user_side": result.user_side, **facts})


def _print(line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
