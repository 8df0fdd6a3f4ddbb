"""Following a job: its log as it grows, through lost connections, and the exit code of the command inside."""

import asyncio
import time
from typing import TextIO

from ray.job_submission import JobDetails, JobStatus

from raymtl.errors import ClusterError
from raymtl.submission.client import LOST, Jobs

POLL_S = 1.0
PATIENCE_S = 120.0
"""So long after the first failed attempt without an answer, and the cluster is given up."""

_NO_RAYMTL = ("No module named raymtl", "No module named 'raymtl'", "python: not found", "python: command not found")
_TAIL = 4000


class Log:
    """What a job prints, written to `out` once, however often the connection is lost."""

    def __init__(self, jobs: Jobs, job: str, out: TextIO):
        self.jobs, self.job, self.out = jobs, job, out
        self.shown = 0
        """Characters written."""
        self.tail = ""
        """The end of what was written."""
        self._lost_at: float | None = None
        """When the first attempt failed since something was last received."""

    def follow(self) -> JobDetails:
        """Write what the job prints until it ends; returns how it ended. Raises ClusterError where the cluster is lost."""
        while True:
            try:
                info = self.jobs.client.get_job_info(self.job)
                self._lost_at = None
                if info.status == JobStatus.PENDING:  # there is no log yet to wait at
                    time.sleep(POLL_S)
                    continue
                asyncio.run(self._stream())
                if info.status.is_terminal():
                    return info
            except BrokenPipeError:  # whoever read the log has gone
                raise
            except (RuntimeError, *LOST) as error:
                # A head that was started anew answers, but knows nothing of the job
                gone = "status code 404" in str(error)
                # Not from the last answer: a stream is silent for as long as the job prints nothing, hours at times
                now = time.monotonic()
                self._lost_at = now if self._lost_at is None else self._lost_at
                if gone or now - self._lost_at > PATIENCE_S:
                    raise ClusterError(
                        f"the cluster at {self.jobs.address} "
                        + ("no longer knows" if gone else f"has not answered for {PATIENCE_S:.0f} s about")
                        + f" the job `{self.job}`: {'its head was started anew' if gone else str(error).splitlines()[0]}; a job "
                        "dies with its cluster, and the same command goes on from what is on the storage"
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
        """Whether the log ends because the cluster's Python has no raymtl."""
        return any(sentence in self.tail for sentence in _NO_RAYMTL)


def exit_code(info: JobDetails) -> int:
    """The exit code of the command that a finished job ran; 130 of a stopped one, 128 + N of one that signal N ended.

    Raises ClusterError where the command never began, or went with its node.
    """
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return 130
    code = info.driver_exit_code
    if code is None:
        said = (info.message or "no reason given").strip().splitlines()[0]
        raise ClusterError(f"the job `{info.submission_id}` ended without an exit code: {said}")
    return code if code >= 0 else 128 - code
