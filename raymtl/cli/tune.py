"""`raymtl tune`: a search over the configuration."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymtl import api
from raymtl.cli.options import Address, Gpu, Json, finish, load
from raymtl.cli.serving import AllowCustom, Formulas, VersionOption
from raymtl.errors import ConfigError
from raymtl.telemetry.logs import terminal
from raymtl.words import count_of

if TYPE_CHECKING:
    from raymtl.results import TuneResult

console = terminal()
app = typer.Typer(
    help="Search loss weights, the order loss weight alpha and any other field of the configuration (docs/tuning.md).",
    invoke_without_command=True,
)

SearchFolder = Annotated[str, typer.Argument(metavar="SEARCH", help="Folder of a search, <output>/<name>-tune.")]


@app.callback()
def tune(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option("--config", "-c", metavar="FILE", help="The YAML configuration, a path or a URL.")
    ] = None,
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Override one field, such as tune.repeats=5; may be repeated."),
    ] = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Name of the search; the same name resumes the same search.")] = None,
    max_trials: Annotated[int | None, typer.Option(help="Short for --set tune.max_trials=N.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Short for --set tune.max_concurrent=N.")] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Short for --set tune.time_budget_s=SECONDS.")
    ] = None,
    from_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Start every trial from this version of the store: short for tune.start.version."
        ),
    ] = None,
    gpu: Gpu = False,
    address: Address = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the search space and the objective, then stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a search, or resume a stopped one; writes best.yaml, trials.parquet and report.html."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise ConfigError(
            "--config is missing; name the YAML configuration, or run `raymtl tune status` or `raymtl tune report`"
        )
    short = {
        "name": name,
        "tune.max_trials": max_trials,
        "tune.max_concurrent": max_concurrent,
        "tune.time_budget_s": time_budget,
        "tune.start.version": from_version,
        "train.use_gpu": gpu or None,
    }
    loaded = load(config, sets, short)
    if dry_run:
        console.print("checking the configuration and the logs")  # before the imports, which take seconds
        from raymtl.data.writable import check_writable
        from raymtl.storage.folder import Folder
        from raymtl.tuning.check import check, search_folder

        space = check(loaded)
        check_writable(Folder.open(search_folder(loaded)), "output: the folder of the search")
        for dimension in space.dimensions:
            console.print(f"{dimension.name}: {dimension.values}", markup=False)
        console.print(
            f"ready: {count_of(len(space.dimensions), 'dimension')}; the search would be {search_folder(loaded)}",
            markup=False,
        )
        finish(
            as_json, {"dimensions": [dimension.name for dimension in space.dimensions], "folder": search_folder(loaded)}
        )
        return
    result = api.tune(loaded, address=address)
    from raymtl.tuning.run import open_search  # not before: Ray and TorchRec take seconds to import

    _show(open_search(result["folder"])[0], result, as_json)


@app.command()
def status(folder: SearchFolder, as_json: Json = False) -> None:
    """Show the progress of a search, also while another process runs it."""
    from raymtl.tuning.result import summary
    from raymtl.tuning.run import open_search
    from raymtl.tuning.terminal import trials_table

    search, clock = open_search(folder)
    found = summary(search, clock, search.trial_store.folder)
    console.print(trials_table(search))
    console.print(_counts(found), markup=False)
    finish(as_json, found)


@app.command()
def report(folder: SearchFolder, as_json: Json = False) -> None:
    """Rewrite the report, best.yaml and trials.parquet from a search's records, finished or not."""
    from raymtl.tuning.result import write_result
    from raymtl.tuning.run import open_search

    search, clock = open_search(folder)
    _show(search, write_result(search, search.trial_store.folder, clock), as_json)


@app.command()
def score(
    version: VersionOption,
    data: Annotated[str, typer.Option(metavar="PATH", help="Logs with labels, of days after the version's training.")],
    out: Annotated[
        str, typer.Option(metavar="OUT", help="Folder or URL to write to; the same folder reuses its predictions.")
    ],
    days: Annotated[
        str | None, typer.Option(metavar="A..B", help="First and last day, or one day; default: all days.")
    ] = None,
    formulas: Formulas = None,
    formula: Annotated[str | None, typer.Option(help="The formula to search; default: the only one.")] = None,
    trials: Annotated[int, typer.Option(min=10, help="Formulas to try.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the search, and of the users to fit and to judge on.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that predict; default: as many as the cluster has room for.")
    ] = None,
    address: Address = None,
    allow_custom: AllowCustom = False,
    as_json: Json = False,
) -> None:
    """Search exponents, weights or edges of a formula of `score` on a version's predictions, without training."""
    result = api.tune_score(
        version,
        data,
        out,
        days,
        formulas=formulas,
        formula=formula,
        trials=trials,
        seed=seed,
        workers=workers,
        address=address,
        allow_custom=allow_custom,
    )
    from raymtl.tuning.score.page import formula_text, with_half

    best, current = result["formulas"]["best"], result["formulas"]["current"]
    for label, entry in (("current", current), ("best", best)):
        console.print(
            f"{label}: value@{result['at']} {with_half(entry['value'])} with {formula_text(entry['formula'])}",
            markup=False,
            soft_wrap=True,
        )
    verdict = "beyond" if result["recommended"] == "best" else "within"
    console.print(
        f"difference: {with_half(best['difference'], signed=True)} on users not fitted on, {verdict} the noise; "
        f"{result['trials']:,} trials, {result['trials_per_minute']:,} a minute",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"report: {result['report']}", markup=False, soft_wrap=True)
    console.print(f"next: raymtl score --formulas {result['folder']}/score.yaml", markup=False, soft_wrap=True)
    finish(as_json, result)


def _show(search: Any, result: "TuneResult", as_json: bool) -> None:
    from raymtl.tuning.terminal import field_text, trials_table

    console.print(trials_table(search, 20))
    console.print(_counts(result), markup=False)
    for gain in result["repeats"]:
        console.print(_gain(gain), markup=False)
    if result["best"] is None:
        console.print("no trial that meets the limits has finished, and neither has the default configuration")
    elif not result["best_fields"]:
        console.print("no trial is better than the default configuration")
    else:
        fields = ", ".join(f"{k} = {field_text(v)}" for k, v in result["best_fields"].items())
        kept = "" if result["recommended"] == result["best"] else "; not proven better, so best.yaml holds the default"
        console.print(f"best: trial {result['best']} with {fields}{kept}", markup=False, soft_wrap=True)
    console.print(f"report: {result['report']}", markup=False, soft_wrap=True)
    if result["best_config"]:
        console.print(f"next: raymtl train --config {result['best_config']}", markup=False, soft_wrap=True)
    finish(as_json, result)


def _counts(result: "TuneResult") -> str:
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items() if count)
    return f"{counts or 'no trial yet'}; {result['train_seconds']:,.0f} s of training"


def _gain(gain: dict[str, Any]) -> str:
    text = f"{gain['metric']}: {gain['gain']:+.5f}"
    over = f"over the default on {count_of(len(gain['best']), 'fresh seed')}"
    if gain["interval"] is None:
        return f"{text} {over}, which shows no noise to compare it with: raise tune.repeats"
    return f"{text} ± {gain['interval']:.5f} {over}: {'beyond' if gain['beyond_noise'] else 'within'} the noise"
