"""Airflow 3: the daily job of every day, in order, on a permanent Ray cluster (raycluster.yaml, ray-up-*.yaml).

Copy it into the DAGs folder. Airflow's workers need `ray[default]` of the cluster's version (nothing else of raymtl)
and in their environment:

* RAY_API_SERVER_ADDRESS, such as http://raymtl-head-svc:8265
* RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, from Airflow's secrets
"""

import time
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException
from airflow.timetables.interval import CronDataIntervalTimetable

COMMAND = "python /app/jobs/daily.py --config /etc/raymtl/daily.yaml --date {day} --wait 300"
FINAL = {2, 64, 65, 66, 70, 71, 130}  # a person has to act; a retry would end the same way
POLL_SECONDS = 15


# Retries are for exit codes 75 (late logs), 69 and 74: every half hour until late in the morning. A day whose logs never
# arrive fails loudly; skipping it would hide that. Old days first, one at a time. A refused day (70) does not stop the next,
# which starts from the last published version; broken or missing logs (65, 75) also fail the next day.
@dag(
    dag_id="raymtl_daily",
    # Not a cron string: Airflow 3's timetable for one has no previous day
    schedule=CronDataIntervalTimetable("30 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 31, tzinfo=UTC),
    catchup=True,
    max_active_runs=1,
    default_args={"retries": 16, "retry_delay": timedelta(minutes=30), "execution_timeout": timedelta(hours=6)},
)
def raymtl_daily() -> None:
    @task
    def run(data_interval_start: datetime | None = None, ti: object = None) -> None:
        from ray.job_submission import JobSubmissionClient

        day = f"{data_interval_start:%Y-%m-%d}"
        job = f"raymtl-daily-{day}-a{ti.try_number}"
        client = JobSubmissionClient()
        # A task that lost its worker returns with the same number and continues waiting
        if job not in {known.submission_id for known in client.list_jobs()}:
            client.submit_job(entrypoint=COMMAND.format(day=day), submission_id=job, metadata={"day": day})
        try:
            while not client.get_job_status(job).is_terminal():
                time.sleep(POLL_SECONDS)
        except BaseException:  # a timeout, or the task is stopped: the job must not keep running unseen
            client.stop_job(job)
            raise
        print(client.get_job_logs(job))
        finish(job, client.get_job_info(job))

    run()


def finish(job: str, info: object) -> None:
    """Raise what makes Airflow try again, or give up, after the exit code of the job."""
    code = info.driver_exit_code
    if info.status == "SUCCEEDED":
        return
    error = AirflowFailException if code in FINAL or info.status == "STOPPED" else RuntimeError
    raise error(f"{job}: {info.status}, exit code {code}; docs/daily.md says what it means")


raymtl_daily()
