"""Starting a job once: under a name that its work has, so that a second submission finds the first."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raymtl.errors import ConfigError, TryLaterError
from raymtl.submission.client import Jobs, asking
from raymtl.submission.request import Request

DIGEST = "raymtl"
"""Key of the request's digest in the metadata that Ray keeps with a job."""


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
    return shlex.join(["python", "-m", "raymtl.cli", *check, *words])


def submit(jobs: Jobs, request: Request, command: str, environment: dict[str, Any], driver: Driver) -> Submitted:
    """Start the job `<id>`, or after earlier attempts that failed `<id>-a2` and so on.

    An attempt at the same work that is under way, or has succeeded, stands, and nothing is started. Raises TryLaterError where
    other work of this name is under way.
    """
    while True:
        known = jobs.known()
        last, number = _last_attempt(known, request.id)
        if last is not None:
            same = (known[last].metadata or {}).get(DIGEST) == request.digest
            if not known[last].status.is_terminal():
                if same:
                    return Submitted(last, "under way")
                raise TryLaterError(
                    f"the job `{last}` is under way with other arguments; wait for it, stop it (`raymtl jobs stop {last} "
                    f"--address {jobs.address}`), or give this one a name of its own by --id"
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
                    metadata={DIGEST: request.digest},
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
