"""Start a job once: the job's name identifies its work, so that a second submission finds the first."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
from ray._private.runtime_env import packaging

from raymtl.errors import ConfigError, TryLaterError
from raymtl.submission.client import Jobs, asking
from raymtl.submission.request import Request

DIGEST = "raymtl"
"""Key of the submission's digest in the job's metadata."""


@dataclass(frozen=True)
class Driver:
    """Resources that the command itself reserves, besides its workers; all zero: it runs on the head and reserves nothing."""

    num_cpus: float | None = None
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Submitted:
    """A job, and how the submission found it."""

    id: str
    how: Literal["started", "running", "done"]


def entrypoint(words: Sequence[str], require: str | None) -> str:
    """The shell command of a job; with `require` it exits with 71 if the cluster has other versions of the packages."""
    check = ["--require", require] if require else []
    return shlex.join(["python", "-m", "raymtl", *check, *words])


def digest(request: Request, environment: dict[str, Any], driver: Driver) -> str:
    """16 hex digits, equal for two submissions of the same work.

    The same work means the same arguments and configuration, code files, requirements, names of environment variables and
    resources of the command. Values of variables are left out: everyone who sees the job can read the digest, and a new key does
    not change the work. Raises ConfigError if a file cannot be read.
    """
    folder, pip = environment.get("working_dir"), environment.get("pip")
    try:
        package = None if folder is None else _package(folder)
    except OSError as error:
        raise ConfigError(
            f"cannot read the files to upload from --working-dir `{folder}`: {error}; make them readable, or list them in "
            ".rayignore"
        ) from error
    try:
        requirements = None if pip is None else Path(pip).read_bytes().decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read --pip `{pip}`: {error}; make the file readable") from error
    names = sorted(environment.get("env_vars", ()))
    content = [request.words, request.config, package, requirements, names, asdict(driver)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _package(folder: str) -> str:
    """A hash of the names and contents of the files that Ray would upload from a folder.

    Ray's own name of the package depends on empty folders too, including those whose files are all ignored: the first run in an
    ignored `runs/` would change it.
    """
    root, hashes = Path(folder), []

    def note(path: Path) -> None:
        if not path.is_dir():
            hashes.append(packaging._hash_file_content_or_directory_name(path, root).hex())

    ignores = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    excluded = packaging._get_excludes(root, get_runtime_env_default_excludes())
    packaging._dir_travel(root, [excluded], note, include_gitignore=ignores)
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def submit(jobs: Jobs, request: Request, command: str, environment: dict[str, Any], driver: Driver) -> Submitted:
    """Start the job `<id>`, or `<id>-a2` and so on after failed attempts.

    Starts nothing if an attempt at the same work is running or has succeeded. Raises TryLaterError if other work of this name is
    running.
    """
    own = digest(request, environment, driver)
    while True:
        known = jobs.known()
        last, number = _last_attempt(known, request.id)
        if last is not None:
            same = (known[last].metadata or {}).get(DIGEST) == own
            if not known[last].status.is_terminal():
                if same:
                    return Submitted(last, "running")
                raise TryLaterError(
                    f"the job `{last}` is running with other arguments, code or packages; wait for it, stop it (`raymtl jobs "
                    f"stop {last} --address {jobs.address}`), or give this one another name with --id"
                )
            if same and known[last].status == "SUCCEEDED":
                return Submitted(last, "done")
        attempt = request.id if last is None else f"{request.id}-a{number + 1}"
        try:
            with asking(jobs.address, f"start the job `{attempt}`"):
                jobs.client.submit_job(
                    entrypoint=command,
                    submission_id=attempt,
                    runtime_env=environment,
                    metadata={DIGEST: own},
                    entrypoint_num_cpus=driver.num_cpus,
                    entrypoint_memory=driver.memory,
                    entrypoint_resources=driver.resources or None,
                )
        except ValueError as error:
            raise ConfigError(
                f"cannot package the job with --working-dir `{environment.get('working_dir')}`: {str(error).splitlines()[0]}; "
                "fix the folder, or list the files to leave out in .rayignore"
            ) from error
        except Exception:
            # Another process took the name in between, or the answer to an earlier attempt was lost
            if attempt in jobs.known():
                continue
            raise
        return Submitted(attempt, "started")


def _last_attempt(known: dict[str, Any], first: str) -> tuple[str | None, int]:
    """The last attempt and its number, from 1."""
    numbers = {first: 1}
    for name in known:
        if match := re.fullmatch(re.escape(first) + r"-a(\d+)", name):
            numbers[name] = int(match[1])
    found = max((name for name in numbers if name in known), key=numbers.__getitem__, default=None)
    return found, numbers[found] if found else 0
