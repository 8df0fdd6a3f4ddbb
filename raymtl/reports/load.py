"""Read the folder of a run, finished or still running, into one object for the report."""

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow.fs as pafs
import yaml

from raymtl.errors import UserError
from raymtl.reports.tables import metrics_of
from raymtl.storage.folder import Folder
from raymtl.storage.paths import split_options

FILES = ("config.yaml", "metrics.jsonl", "result.json")


@dataclass
class Run:
    """The content of a run folder; a missing file leaves its field empty."""

    folder: str
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    """Lines of training progress, ascending in `rows`."""
    evals: list[dict[str, Any]] = field(default_factory=list)
    """Lines of evaluations, ascending in `rows`."""
    result: dict[str, Any] | None = None
    restarts: int = 0
    """Times that the run resumed from a checkpoint; repeated steps are left out of `train` and `evals`."""
    notes: list[str] = field(default_factory=list)
    """Plain sentences about what is missing or damaged."""

    @property
    def name(self) -> str:
        return str(self.config.get("name") or split_options(self.folder)[0].rstrip("/").rpartition("/")[2])

    @property
    def final(self) -> dict[str, Any] | None:
        """The metrics to show: those of the result, or of the last evaluation; None before the first one."""
        found = metrics_of(self.result) if self.result else {"tasks": {}}
        if found["tasks"]:
            return found
        return metrics_of(self.evals[-1]["metrics"]) if self.evals else None

    @property
    def tasks(self) -> list[str]:
        """Task names, in the order of the config, or of what has been logged."""
        subset = self.config.get("tasks_subset")
        names = [n for n in self.config.get("tasks") or {} if subset is None or n in subset]
        names += [n for n in (self.final or {}).get("tasks", {}) if n not in names]
        return names + [n for n in (self.train[-1].get("losses", {}) if self.train else {}) if n not in names]

    @property
    def data_range(self) -> str:
        """The days trained and evaluated on, in words."""
        return ", ".join(f"{part} {days}" for part in ("train", "eval") if (days := self.days(part)))

    def days(self, part: str) -> str:
        """The days of `train` or `eval`; empty if unknown."""
        given = (self.result or {}).get("data_range") or self.config.get("data") or {}
        days = given.get(part) if isinstance(given, dict) else None
        return _days(days) if days else ""


def load_run(folder: Folder) -> Run:
    """Read the run in `folder`.

    Raises:
        UserError: there is no such folder, it is not the folder of a run, or `config.yaml` or `result.json` is damaged.
    """
    if folder.kind() != pafs.FileType.Directory:
        raise UserError(f"there is no folder `{folder.path}`; pass a run, <output>/<name>, or the store of a daily job")
    texts = {name: folder.read_text(name) for name in FILES}
    if not any(text is not None for text in texts.values()):
        raise UserError(
            f"`{folder.path}` is neither a run (it has none of {', '.join(FILES)}) nor the store of a daily job (it has no "
            f"days/); pass <output>/<name>, or daily.store"
        )
    if folder.kind("trials") == pafs.FileType.Directory:
        raise UserError(f"`{folder.path}` is a search, not a run; run `raymtl tune report {folder.path}`")
    run = Run(folder.path)
    if (text := texts["config.yaml"]) is not None:
        run.config_text = text
        run.config = _mapping(folder.path_of("config.yaml"), text, yaml.safe_load, yaml.YAMLError)
    else:
        run.notes.append("There is no config.yaml, so the names and the data range come from what was logged.")
    if (text := texts["result.json"]) is not None:
        run.result = _mapping(folder.path_of("result.json"), text, json.loads, ValueError)
    else:
        run.notes.append(
            "There is no result.json: the run is still running, or it was stopped. This report shows its log so far."
        )
    _add_lines(run, texts["metrics.jsonl"])
    if run.final is None:
        run.notes.append("No evaluation has finished yet, so there are no metrics to show.")
    return run


def _mapping(path: str, text: str, parse: Any, error: type[Exception]) -> dict[str, Any]:
    try:
        found = parse(text)
    except error as e:
        raise UserError(f"`{path}` is damaged: {e}; restore it, or rerun the command that wrote it") from e
    if not isinstance(found, dict):
        raise UserError(
            f"`{path}` holds a {type(found).__name__}, expected a mapping; pass the folder of a run, <output>/<name>"
        )
    return found


def _add_lines(run: Run, text: str | None) -> None:
    """Sort the lines of metrics.jsonl into training and evaluation, following restarts."""
    if not text or not text.strip():
        run.notes.append("metrics.jsonl is missing or empty: no training step has been logged yet.")
        return
    lines = text.splitlines()
    broken = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            kind, rows = entry["kind"], entry["rows"]
            if kind not in ("train", "eval") or not isinstance(rows, int | float):
                continue
            if kind == "eval" and not isinstance(entry["metrics"]["tasks"], dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            # The last line of a growing file may be incomplete, which is no damage
            if number < len(lines) or text.endswith("\n"):
                broken.append(number)
            continue
        _add_entry(run, kind, entry)
    starts = (run.result or {}).get("starts")
    restarts = max(run.restarts, starts - 1 if isinstance(starts, int) else 0)
    if restarts:
        times = "once" if restarts == 1 else f"{restarts} times"
        run.notes.append(f"The run resumed from a checkpoint {times}; repeated steps are shown once, as repeated.")
    if broken:
        run.notes.append(
            f"{len(broken)} of the {len(lines)} lines of metrics.jsonl could not be read, the first one line {broken[0]}."
        )


def _add_entry(run: Run, kind: str, entry: dict[str, Any]) -> None:
    history = run.train if kind == "train" else run.evals
    if kind == "train" and history and entry["rows"] <= history[-1]["rows"]:
        run.restarts += 1
        run.evals[:] = [e for e in run.evals if e["rows"] < entry["rows"]]
    while history and history[-1]["rows"] >= entry["rows"]:
        history.pop()
    history.append(entry)


def _days(days: Any) -> str:
    """A range given as `{start, end}`, as a list from the first day to the last, or in words."""
    if isinstance(days, dict):
        days = [days.get("start"), days.get("end")]
    if isinstance(days, list | tuple):
        return str(days[0]) if days[0] == days[-1] else f"{days[0]}..{days[-1]}"
    return str(days)
