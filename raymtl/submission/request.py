"""Turn a command line of raymtl into a job: the same arguments, rewritten to mean the same on the cluster."""

import datetime as dt
import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raymtl.config.data import yesterday
from raymtl.config.load import dump_config, load_config, relative_paths
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.storage.paths import absolute

UPLOADED = "raymtl-submitted.yaml"
"""Name of the configuration in the job's folder."""

PLACES = ("FILE", "RUN", "DIR", "OUT", "PATH", "PATH...", "STORE", "SEARCH", "SRC OUT")
"""Metavars of arguments that are paths: these are made absolute, since the job runs in another folder."""

RESUMABLE = ("train", "tune", "daily", "score", "demo")
"""Commands that resume the work of an earlier call, identified by its name or its OUT."""

_SHORT = {"name": "name", "workers": "train.workers", "gpu": "train.use_gpu"}
_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Request:
    """One command for a cluster."""

    words: tuple[str, ...]
    """The command and its arguments, without the program."""
    config: str | None
    """Text of the configuration to upload as `UPLOADED`; None: the command takes none, or reads it from a URL."""
    id: str
    """Submission id of the first attempt."""


def read_request(root: Any, words: Sequence[str], job_id: str | None = None) -> Request:
    """The job for a command line, `words`, of the program `root` (click's group of all commands).

    The configuration is read and checked here; the uploaded one includes every `--set` and has absolute paths. A daily job
    gets its day, so that it does the same day whenever it starts. `job_id` replaces the id made of command and name.
    Raises ConfigError, and click's own errors for options that the command does not have.
    """
    if job_id is not None and (not job_id or _NAME.search(job_id)):
        raise ConfigError(f"--id is `{job_id}`; use only letters, digits, `_`, `.` and `-`")
    name, context = _parsed(root, words)
    values = dict(context.params)
    config = text = None
    path = values.get("config")
    if path and "://" not in path:
        short = [f"{key}={json.dumps(values[of])}" for of, key in _SHORT.items() if values.get(of)]
        config = load_config(path, [*values.get("sets", ()), *short])
        text = dump_config(config)
        values |= {"config": UPLOADED, "sets": []}
    elif relative := relative_paths(values.get("sets", ())):  # applied on the cluster, to a configuration read there
        raise ConfigError(
            f"--set {relative[0]} is a relative path, and the job reads its configuration in another folder; write an absolute "
            "path or a URL"
        )
    given = _given(context, values)
    if name == "daily" and not (values.get("date") or values.get("first") or values.get("follow")):
        day = yesterday().isoformat()
        values["date"] = day
        given += ["--date", day]
    return Request((name, *given), text, job_id or _id(name, values, config))


def _parsed(root: Any, words: Sequence[str]) -> tuple[str, Any]:
    """Name and click's context of a command that runs on a cluster: those that have the option --address."""
    able = [name for name, one in root.commands.items() if any("--address" in p.opts for p in one.params)]
    able = [name for name in able if name not in ("submit", "jobs")]
    if not any(words[:1]):
        raise ConfigError(f"no command is given; add one of: {', '.join(sorted(able))}")
    if words[0] not in able:
        raise ConfigError(f"`{words[0]}` does not run on a cluster; use one of these: {', '.join(sorted(able))}")
    context = root.commands[words[0]].make_context(words[0], list(words[1:]))
    if rest := [*getattr(context, "_protected_args", ()), *context.args]:
        raise ConfigError(f"`{words[0]} {rest[0]}` needs no cluster; run `raymtl {words[0]} {rest[0]}` here")
    return words[0], context


def _given(context: Any, values: Mapping[str, Any]) -> list[str]:
    """The given arguments, with their values replaced by `values`."""
    options: list[str] = []
    places: list[str] = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        value = values[parameter.name]
        if source is None or source.name != "COMMANDLINE" or value in (None, [], ()):
            continue
        if parameter.metavar in PLACES and parameter.name != "config":
            value = [absolute(one) for one in value] if isinstance(value, list | tuple) else absolute(value)
        several = value if isinstance(value, list | tuple) else [value]
        if not parameter.opts[0].startswith("-"):
            places += map(str, several)
        elif getattr(parameter, "is_flag", False):
            options += [(parameter.opts if value else parameter.secondary_opts)[0]]
        elif parameter.nargs > 1:
            options += [parameter.opts[0], *map(str, several)]
        else:
            options += [word for one in several for word in (parameter.opts[0], str(one))]
    return [*options, *places]


def _id(command: str, values: Mapping[str, Any], config: Config | None) -> str:
    if command not in RESUMABLE:
        now = dt.datetime.now(dt.UTC)
        return f"raymtl-{command}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if command == "score":  # it has no name; it resumes by its output
        out = absolute(values["out"]).rstrip("/")
        last = _NAME.sub("-", out.rpartition("/")[2]).strip("-") or "out"
        return f"raymtl-score-{last}-{hashlib.sha256(out.encode()).hexdigest()[:8]}"
    path = values.get("config") or ""
    name = config.name if config is not None else values.get("name") or path.rpartition("/")[2].removesuffix(".yaml")
    days = [str(values[key]) for key in ("date", "first", "last") if values.get(key)]
    return "-".join(["raymtl", command, _NAME.sub("-", name).strip("-") or "run", *days])
