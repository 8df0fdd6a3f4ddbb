"""A cluster's jobs API that keeps its jobs in a list."""

from collections.abc import AsyncIterator
from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobType

from raymtl.submission.client import Jobs

ADDRESS = "http://head:8265"


def job(name: str, status: str, code: int | None = None, **fields: Any) -> JobDetails:
    """One job of that id."""
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=name,
        status=JobStatus(status),
        driver_exit_code=code,
        entrypoint="python -m raymtl train",
        **fields,
    )


class FakeClient:
    """What raymtl calls of Ray's JobSubmissionClient."""

    def __init__(self, *jobs: JobDetails):
        self.jobs = list(jobs)
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.states: list[Any] = []
        """What the next questions for a job get: a status, or an error; the last one stays."""
        self.streams: list[list[Any]] = []
        """What the next followers of a log get: pieces, or an error."""

    def list_jobs(self) -> list[JobDetails]:
        return list(self.jobs)

    def submit_job(self, **values: Any) -> str:
        self.submitted.append(values)
        name = values["submission_id"]
        if any(one.submission_id == name for one in self.jobs):
            raise RuntimeError(f"Request failed with status code 500: Job with submission_id {name} already exists.")
        self.jobs.append(job(name, "PENDING", metadata=values["metadata"]))
        return name

    def get_job_info(self, name: str) -> JobDetails:
        if self.states:
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            if isinstance(state, Exception):
                raise state
            return state
        for one in self.jobs:
            if one.submission_id == name:
                return one
        raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for piece in self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def get_job_logs(self, name: str) -> str:
        self.get_job_info(name)
        return "the log\n"

    def stop_job(self, name: str) -> bool:
        self.stopped.append(name)
        return not self.get_job_info(name).status.is_terminal()


def jobs_of(client: FakeClient) -> Jobs:
    """The fake as the code under test takes it."""
    return Jobs(client, ADDRESS)  # type: ignore[arg-type]
