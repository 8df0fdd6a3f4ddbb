"""The jobs API of a Ray cluster; each failure becomes one sentence."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from raymtl.errors import ClusterError, ConfigError, TryLaterError, UserError

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""The environment variable from which Ray takes the default address of the dashboard."""

_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.authentication.authentication_token_setup",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)

LOST = (OSError, aiohttp.ClientError, requests.RequestException)
"""What a call raises if the cluster does not answer; `ConnectionError` and time-outs are OSErrors."""


class UnknownJobError(UserError):
    """The cluster does not know the job."""

    exit_code = 66


class Jobs:
    """The jobs of one cluster, by their submission ids."""

    def __init__(self, client: JobSubmissionClient, address: str):
        self.client = client
        self.address = address

    def known(self) -> dict[str, JobDetails]:
        """The jobs submitted to the cluster since its head started, oldest first."""
        with asking(self.address, "list the jobs"):
            found = [job for job in self.client.list_jobs() if job.submission_id]
        return {job.submission_id: job for job in sorted(found, key=lambda job: job.start_time or 0)}

    def info(self, job: str) -> JobDetails:
        """One job. Raises UnknownJobError if the cluster does not know it."""
        with asking(self.address, f"ask for the job `{job}`", job):
            return self.client.get_job_info(job)

    def logs(self, job: str) -> str:
        """What a job has printed so far."""
        with asking(self.address, f"read the log of `{job}`", job):
            return self.client.get_job_logs(job)

    def stop(self, job: str) -> bool:
        """Stop a job; False if it had already ended."""
        with asking(self.address, f"stop `{job}`", job):
            return self.client.stop_job(job)


def connect(address: str | None) -> Jobs:
    """The jobs of the cluster whose dashboard is at `address`, or at $RAY_API_SERVER_ADDRESS.

    Raises ConfigError if the address is missing or not valid, and ClusterError if nothing answers there, if the token is missing
    or wrong, or if the cluster runs another minor version of Ray.
    """
    source = "--address" if address else ADDRESS
    address = (address or os.environ.get(ADDRESS) or "").rstrip("/")
    if not address:
        raise ConfigError(
            f"the address of the cluster's dashboard is missing; set --address http://HEAD:8265, or {ADDRESS}"
        )
    host, port = _host_and_port(address, source)
    os.environ[ADDRESS] = address  # Ray prefers this and RAY_ADDRESS to the argument
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # As ray.init does if RAY_AUTH_MODE is not set; Ray's jobs client would send no token
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with asking(address, "ask for the version of Ray"):
        # Ray itself would wait for minutes if packets get lost
        socket.create_connection((host, port), timeout=10).close()
        client = JobSubmissionClient(address)
    _check_version(address, client._server_ray_version or "unknown")
    return Jobs(client, address)


def _host_and_port(address: str, source: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is not a number, or unclosed brackets
        parts, host, port = urlsplit(""), None, None
    # For any other scheme Ray would import a module of that name
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"{source} is `{address}`; set it to the URL of the cluster's dashboard, such as http://HEAD:8265"
        )
    return host, port or (443 if parts.scheme == "https" else 80)


def _check_version(address: str, there: str) -> None:
    if there.split(".")[:2] != ray.__version__.split(".")[:2]:
        raise ClusterError(
            f"the cluster at {address} runs Ray {there}, and this machine has Ray {ray.__version__}; install the cluster's "
            f"version here, or submit from an environment that has it"
        )


@contextmanager
def asking(address: str, doing: str, job: str | None = None) -> Iterator[None]:
    """Turn a failed call into one sentence; `doing` names the call, and `job` the job that may not exist."""
    try:
        yield
    except AuthenticationError as error:
        what = "rejects the token" if "failed" in str(error).splitlines()[0] else "requires a token, and none is set"
        raise ClusterError(
            f"the cluster at {address} {what}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the "
            f"cluster's token (without either, ~/.ray/auth_token is read)"
        ) from error
    except requests.HTTPError as error:
        answer = error.response
        raise _no_dashboard(address, "an error" if answer is None else f"HTTP {answer.status_code}") from error
    except LOST as error:
        if isinstance(error, ValueError):  # an answer that is not JSON
            raise _no_dashboard(address, "another page") from error
        raise ClusterError(
            f"cannot reach a Ray cluster at {address} to {doing}: {_reason(error)}; check the address and that the dashboard "
            f"listens there (port 8265 of the head; `kubectl port-forward` or `ray dashboard` open a tunnel to it)"
        ) from error
    except KeyError as error:
        raise _no_dashboard(address, f"an answer without {error}") from error
    except RuntimeError as error:
        said = str(error)
        if said.startswith("Version check returned 404"):
            raise _no_dashboard(address, "HTTP 404") from error
        if job is not None and "status code 404" in said:
            raise UnknownJobError(
                f"the cluster at {address} has no job `{job}`; list its jobs with `raymtl jobs list --address {address}`"
            ) from error
        if "try again later" in said:
            raise TryLaterError(
                f"the cluster at {address} is not ready to {doing}: its head is starting, or overloaded; rerun the same command "
                "in a minute"
            ) from error
        # An error in the dashboard arrives as its traceback
        line = said.strip().splitlines()[-1 if "Traceback" in said else 0]
        raise ClusterError(
            f"the cluster at {address} failed to {doing}: {line}; read dashboard.log in /tmp/ray/session_latest/logs of the "
            "head, then rerun the same command"
        ) from error


def _no_dashboard(address: str, seen: str) -> ClusterError:
    return ClusterError(
        f"the server at {address} is not a Ray dashboard (it sent {seen}); check the address, whose port is usually 8265"
    )


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
