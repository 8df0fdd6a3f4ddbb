"""`raymtl tune score`: predictions once, then the search on half of the users, judged on the other half."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.config.base import did_you_mean, quoted
from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.config.score import Formula, Score, WeightedSum
from raymtl.config.yamltext import dump_yaml
from raymtl.data.writing import OutputFolder
from raymtl.errors import ConfigError, DataError
from raymtl.serving.score import Pool
from raymtl.serving.score import score as predict
from raymtl.serving.scorer import PREDICTION
from raymtl.serving.version import Version, open_version
from raymtl.storage.filesystem import open_to_read
from raymtl.storage.retry import retry
from raymtl.tuning.score.estimate import off_policy
from raymtl.tuning.score.page import write_page
from raymtl.tuning.score.search import FormulaTrial, best_of, pareto_front, search
from raymtl.tuning.score.sessions import Sessions, key_columns, read_sessions
from raymtl.words import count_of

PREDICTIONS, RESULT, TRIALS, SECTION = "predictions", "result.json", "trials.parquet", "score.yaml"
CURRENT, BEST, GAIN = "current", "best", "expected gain"
"""Names of formulas in the result: of the configuration, the best one found, and Σ weight · expected label."""
ALONE = "{} alone"
"""Name of an output by itself; with a blank, so that none is that of another formula."""
_MOST_ROWS = 20_000_000
"""Rows that fit into the memory of one process, with all that is computed of them."""


def tune_score(
    version: str,
    data: str,
    out: str,
    *,
    days: DayRange | None = None,
    formulas: str | None = None,
    formula: str | None = None,
    trials: int = 2000,
    seed: int = 0,
    pool: Pool = Pool(),
    address: str | None = None,
    allow_custom: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Search the exponents, weights or edges of a formula on a version's predictions; returns the content of `result.json`.

    The predictions of `data` are written to `out` once; a later call, also with another formula, reads them. `formulas` is a file
    with a `score` section in place of the version's, `formula` the one to search; None: the only one. Raises UserError.
    """
    opened = open_version(version, allow_custom, formulas)
    config = opened.config
    score, name = _chosen(config.score, formula)
    folder = OutputFolder.open(out)
    saved = predict(
        version,
        data,
        folder.path_of(PREDICTIONS),
        days=days,
        keys=key_columns(config, score),
        pool=pool,
        address=address,
        allow_custom=allow_custom,
        with_scores=False,
        notify=notify,
    )
    sessions, explored = _sessions(folder, saved, config, score)
    notify(f"{count_of(sessions.count, 'list')} of {count_of(sessions.users, 'user')} with a known gain")
    fit, judge = sessions.halves(seed)
    if not fit.count or not judge.count:
        raise DataError("the lists are of one user, so there is none to judge on; score more days")
    found, seconds = search(
        score.formulas[name], fit, trials, seed, lambda done: progress(done, trials) if progress else None
    )
    result = _result(opened, score, name, found, seconds, fit, judge, explored) | {"folder": folder.path}
    chosen = result["formulas"][BEST if result["recommended"] == BEST else CURRENT]["formula"]
    section = score.model_dump(mode="json", exclude_none=True)
    section["formulas"][name] = chosen
    folder.write(
        SECTION,
        f"# For the configuration, or --formulas of `raymtl score` and `raymtl export`\n{dump_yaml({'score': section})}",
    )
    _write_trials(folder, found, fit)
    result["report"] = write_page(folder, result)
    folder.write(RESULT, json.dumps(result, indent=1) + "\n")
    return result


def _chosen(score: Score | None, formula: str | None) -> tuple[Score, str]:
    """The section, and the name of the formula to search."""
    if score is None:
        raise ConfigError(
            "the version's configuration has no `score` section; write one to a file, and name it with --formulas"
        )
    if not score.gain:
        raise ConfigError(
            "score.gain is empty, so no formula is better than another; say what each task's label is worth"
        )
    if formula is None and len(score.formulas) > 1:
        raise ConfigError(f"set --formula to the formula to search, one of {quoted(score.formulas)}")
    name = formula or next(iter(score.formulas))
    if name not in score.formulas:
        near = did_you_mean(name, score.formulas)
        raise ConfigError(f"--formula is `{name}`; expected one of {quoted(score.formulas)}{near}")
    return score, name


def _sessions(
    folder: OutputFolder, saved: dict[str, Any], config: Config, score: Score
) -> tuple[Sessions, Sessions | None]:
    if saved["rows"] > _MOST_ROWS:
        raise DataError(
            f"{saved['rows']:,} rows are more than one process compares ({_MOST_ROWS:,}); name fewer days with --days"
        )

    def read(file: dict[str, Any]) -> pa.Table:
        with open_to_read(folder.filesystem, folder.inside(f"{PREDICTIONS}/{file['path']}")) as stream:
            return pq.ParquetFile(stream).read()

    with folder.errors("read", PREDICTIONS):
        table = pa.concat_tables([retry(partial(read, file)) for file in saved["files"]])
    outputs = [column.removeprefix(PREDICTION) for column in saved["predictions"]]
    sessions, explored = read_sessions(table, config, score, outputs)
    if not sessions.count:
        raise DataError(
            "no row has a known gain: every label with a gain must be observed, and rows with a propensity do not "
            "count; check the label columns of the days with `raymtl check`"
        )
    return sessions, explored


def _result(
    version: Version,
    score: Score,
    name: str,
    found: Sequence[FormulaTrial],
    seconds: float,
    fit: Sessions,
    judge: Sessions,
    explored: Sessions | None,
) -> dict[str, Any]:
    best, front = best_of(list(found)), pareto_front(list(found))
    compared: dict[str, Formula] = {CURRENT: score.formulas[name], BEST: best.formula}
    gained = {task: weight for task, weight in score.gain.items() if weight}
    expected = dict(zip(judge.expected, judge.weights.tolist(), strict=True))
    compared[GAIN] = WeightedSum(type="sum", weights=expected)
    compared |= {ALONE.format(output): WeightedSum(type="sum", weights={output: 1.0}) for output in judge.outputs}
    base = judge.values(compared[CURRENT])
    entries = {label: _entry(formula, judge, base, explored) for label, formula in compared.items()}
    gain = entries[BEST]["difference"]
    better = gain[1] is not None and gain[0] - gain[1] > 0
    return {
        "version": version.manifest.id,
        "formula": name,
        "at": score.at,
        "gain": gained,
        "tasks": judge.tasks,
        "lists": {"fit": fit.count, "judge": judge.count, "explored": explored.count if explored else 0},
        "users": {"fit": fit.users, "judge": judge.users, "explored": explored.users if explored else 0},
        "trials": len(found),
        "seconds": round(seconds, 2),
        "trials_per_minute": round(60 * len(found) / max(seconds, 1e-9)),
        "recommended": BEST if better else CURRENT,
        "formulas": entries,
        "front": [_entry(trial.formula, judge, base, None) for trial in front],
    }


def _entry(formula: Formula, judge: Sessions, base: Any, explored: Sessions | None) -> dict[str, Any]:
    """What a formula is worth to the users who were not fitted on: numbers with half their 95 % intervals."""
    values = judge.values(formula)
    entry: dict[str, Any] = {
        "formula": formula.model_dump(mode="json"),
        "value": judge.mean(values @ judge.weights),
        "by_task": {task: judge.mean(values[:, n]) for n, task in enumerate(judge.tasks)},
        "difference": judge.mean((values - base) @ judge.weights),
    }
    if explored is not None:
        estimate = off_policy(explored, formula)
        entry["off_policy"] = {method: explored.mean(numbers) for method, numbers in estimate.by_list.items()}
        entry["effective_rows"] = round(estimate.effective_rows, 1)
    return entry


def _write_trials(folder: OutputFolder, found: Sequence[FormulaTrial], fit: Sessions) -> None:
    columns: dict[str, list[Any]] = {"trial": list(range(len(found))), "value": [trial.value for trial in found]}
    for n, task in enumerate(fit.tasks):
        columns[f"value_{task}"] = [trial.by_task[n] for trial in found]
    columns["formula"] = [json.dumps(trial.formula.model_dump(mode="json")) for trial in found]
    table = pa.table(columns)
    file = folder.open_parquet(TRIALS, table.schema)
    file.write(table)
    file.close()
