"""The DAG of Airflow, with an Airflow and a Ray that only play their parts."""

import datetime as dt
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from tests.helpers.command_lines import ROOT


class FailError(Exception):
    """What Airflow does not retry."""


class Client:
    """Ray's jobs, each of which ends at the second look."""

    def __init__(self, code: int | None, status: JobStatus, known: list[str]):
        self.code, self.status, self.known, self.looks = code, status, known, 0
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=name) for name in self.known]

    def submit_job(self, **values: Any) -> None:
        self.submitted.append(values)

    def get_job_status(self, job: str) -> JobStatus:
        self.looks += 1
        return self.status if self.looks > 1 else JobStatus.RUNNING

    def get_job_logs(self, job: str) -> str:
        return "the log"

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(status=self.status, driver_exit_code=self.code)

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    seen = SimpleNamespace(dag={}, task=None)

    def dag(**options: Any) -> Any:
        seen.dag = options
        return lambda function: function

    def task(function: Any) -> Any:
        seen.task = function
        return lambda: None

    modules = {
        "airflow": {},
        "airflow.sdk": {"dag": dag, "task": task},
        "airflow.sdk.exceptions": {"AirflowFailException": FailError},
        "airflow.timetables": {},
        "airflow.timetables.interval": {"CronDataIntervalTimetable": lambda cron, timezone: (cron, timezone)},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("airflow_daily", ROOT / "cluster" / "airflow_daily.py")
    seen.module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seen.module)
    monkeypatch.setattr(seen.module, "POLL_SECONDS", 0)
    return seen


def _run(airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, client: Client, attempt: int = 1) -> None:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda: client)
    airflow.task(dt.datetime(2026, 1, 31, 2, 30, tzinfo=dt.UTC), SimpleNamespace(try_number=attempt))


def test_days_in_order_one_at_a_time(airflow: SimpleNamespace) -> None:
    assert airflow.dag["schedule"] == ("30 2 * * *", "UTC")
    assert airflow.dag["catchup"] is True
    assert airflow.dag["max_active_runs"] == 1
    assert airflow.dag["default_args"]["retries"] * airflow.dag["default_args"]["retry_delay"] <= dt.timedelta(hours=8)


def test_a_day_is_one_job_of_a_name_for_each_try(airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(0, JobStatus.SUCCEEDED, [])
    _run(airflow, monkeypatch, client, attempt=3)
    (job,) = client.submitted
    assert job["submission_id"] == "raymtl-daily-2026-01-31-a3"
    assert " --date 2026-01-31 " in job["entrypoint"]


def test_a_task_that_returns_continues_waiting(airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(0, JobStatus.SUCCEEDED, ["raymtl-daily-2026-01-31-a1"])
    _run(airflow, monkeypatch, client)
    assert client.submitted == []


@pytest.mark.parametrize("code", [2, 64, 65, 66, 70, 71, 130])
def test_final_codes_are_not_tried_again(airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with pytest.raises(FailError, match=f"exit code {code}"):
        _run(airflow, monkeypatch, Client(code, JobStatus.FAILED, []))


@pytest.mark.parametrize("code", [1, 69, 74, 75, -9, None])
def test_other_codes_are_tried_again(
    airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    with pytest.raises(RuntimeError, match=f"exit code {code}"):
        _run(airflow, monkeypatch, Client(code, JobStatus.FAILED, []))


def test_a_task_that_is_stopped_takes_its_job_along(airflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(None, JobStatus.RUNNING, [])
    monkeypatch.setattr(client, "get_job_status", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _run(airflow, monkeypatch, client)
    assert client.stopped == ["raymtl-daily-2026-01-31-a1"]
