"""Follow a job: tail its log through lost connections, and read the exit code of its command."""

import asyncio
import time
from typing import TextIO

from ray.job_submission import JobDetails, JobStatus

from raymtl.errors import ClusterError
from raymtl.submission.client import LOST, Jobs

POLL_S = 1.0
PATIENCE_S = 120.0
"""Seconds without an answer, from the first failed attempt, until the cluster counts as lost."""

_NO_RAYMTL = ("No module named raymtl", "No module named 'raymtl'", "python: not found", "python: command not found")
_TAIL = 4000


class Log:
    """A job's output, written to `out` exactly once even if the connection is lost."""

    def __init__(self, jobs: Jobs, job: str, out: TextIO):
        self.jobs, self.job, self.out = jobs, job, out
        self.shown = 0
        """Characters written."""
        self.tail = ""
        """The last characters written."""
        self._lost_at: float | None = None
        """When the first attempt failed since the last answer."""

    def follow(self) -> JobDetails:
        """Write the job's output until it ends; returns how it ended. Raises ClusterError if the cluster is lost."""
        while True:
            try:
                info = self.jobs.client.get_job_info(self.job)
                self._lost_at = None
                if info.status == JobStatus.PENDING:  # there is no log to tail yet
                    time.sleep(POLL_S)
                    continue
                asyncio.run(self._stream())
                if info.status.is_terminal():
                    return info
            except BrokenPipeError:  # the reader of the log has exited
                raise
            except (RuntimeError, *LOST) as error:
                # A restarted head answers, but does not know the job
                gone = "status code 404" in str(error)
                # Not since the last answer: a stream is silent while the job prints nothing, sometimes for hours
                now = time.monotonic()
                self._lost_at = now if self._lost_at is None else self._lost_at
                if gone or now - self._lost_at > PATIENCE_S:
                    raise ClusterError(
                        f"the cluster at {self.jobs.address} no longer knows the job `{self.job}`: its head was restarted, which "
                        "ended the job; rerun the same command to resume from the storage"
                        if gone
                        else f"the cluster at {self.jobs.address} has not answered for {PATIENCE_S:.0f} s about the job "
                        f"`{self.job}`: {str(error).splitlines()[0]}; the job may still be running: restore the connection, then "
                        "rerun the same command, which follows the job or resumes its work"
                    ) from error
            time.sleep(POLL_S)

    async def _stream(self) -> None:
        seen = 0
        async for text in self.jobs.client.tail_job_logs(self.job):
            self._lost_at = None
            self._write(text[max(0, self.shown - seen) :])
            seen += len(text)

    def _write(self, text: str) -> None:
        self.shown += len(text)
        self.tail = (self.tail + text)[-_TAIL:]
        self.out.write(text)
        self.out.flush()

    def misses_raymtl(self) -> bool:
        """Whether the job failed because the cluster's Python has no raymtl."""
        return any(sentence in self.tail for sentence in _NO_RAYMTL)


def exit_code(info: JobDetails) -> int:
    """The exit code of a finished job's command; 130 if the job was stopped, 128 + N if signal N ended it.

    Raises ClusterError if the command never started, or was lost with its node.
    """
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return 130
    code = info.driver_exit_code
    if code is None:
        said = (info.message or "no reason given").strip().splitlines()[0]
        raise ClusterError(
            f"the job `{info.submission_id}` ended without an exit code: {said}; read its log with "
            f"`raymtl jobs logs {info.submission_id}`, then submit the command again"
        )
    return code if code >= 0 else 128 - code
