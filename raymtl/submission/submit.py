"""Starting a job once: under a name that its work has, so that a second submission finds the first."""

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
"""Key of the submission's digest in the metadata that Ray keeps with a job."""


@dataclass(frozen=True)
class Driver:
    """What the command itself takes of the cluster, beside its workers; all zero: it runs on the head, and reserves nothing."""

    num_cpus: float | None = None
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Submitted:
    """A job, and what the submission had to do with it."""

    id: str
    how: Literal["started", "under way", "done"]


def entrypoint(words: Sequence[str], require: str | None) -> str:
    """The shell command of a job; with `require` it ends with 71 where the cluster has other versions of the packages."""
    check = ["--require", require] if require else []
    return shlex.join(["python", "-m", "raymtl", *check, *words])


def digest(request: Request, environment: dict[str, Any], driver: Driver) -> str:
    """16 hex digits that two submissions of the same work share.

    The same work is the same arguments and configuration, the same files in the folder of code, the same requirements, the same
    names of environment variables and the same resources of the command. Values of variables are left out: the digest can be
    read by all who see the job, and work with a fresh key is the same work. Raises ConfigError where a file cannot be read.
    """
    folder, pip = environment.get("working_dir"), environment.get("pip")
    try:
        package = None if folder is None else _package(folder)
        requirements = None if pip is None else Path(pip).read_bytes().decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"the job cannot be packed: {error}") from error
    names = sorted(environment.get("env_vars", ()))
    content = [request.words, request.config, package, requirements, names, asdict(driver)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _package(folder: str) -> str:
    """A hash of names and contents of the files that Ray would upload of a folder.

    The name that Ray itself gives the package counts empty folders too, among them those whose files are left out: the first run
    that appears in an ignored `runs/` would make other work of the same code.
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
    """Start the job `<id>`, or after earlier attempts that failed `<id>-a2` and so on.

    An attempt at the same work that is under way, or has succeeded, stands, and nothing is started. Raises TryLaterError where
    other work of this name is under way.
    """
    own = digest(request, environment, driver)
    while True:
        known = jobs.known()
        last, number = _last_attempt(known, request.id)
        if last is not None:
            same = (known[last].metadata or {}).get(DIGEST) == own
            if not known[last].status.is_terminal():
                if same:
                    return Submitted(last, "under way")
                raise TryLaterError(
                    f"the job `{last}` is under way with other arguments, code or packages; wait for it, stop it (`raymtl jobs "
                    f"stop {last} --address {jobs.address}`), or give this one a name of its own by --id"
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
            raise ConfigError(f"the job cannot be packed: {str(error).splitlines()[0]}") from error
        except Exception:
            # Somebody else took the name in between, or the answer to an earlier try was lost
            if attempt in jobs.known():
                continue
            raise
        return Submitted(attempt, "started")


def _last_attempt(known: dict[str, Any], first: str) -> tuple[str | None, int]:
    """The attempt with the highest number, and the number; the first one has 1."""
    numbers = {first: 1}
    for name in known:
        if match := re.fullmatch(re.escape(first) + r"-a(\d+)", name):
            numbers[name] = int(match[1])
    found = max((name for name in numbers if name in known), key=numbers.__getitem__, default=None)
    return found, numbers[found] if found else 0
