"""One table of exit codes: what the classes, the pages and the schedulers' files say of them is the same."""

import re
from pathlib import Path

import yaml

from raymtl import errors
from raymtl.exit_codes import EXIT_CODES

ROOT = Path(__file__).parents[1]


def codes(*then: str) -> set[int]:
    return {code for code, entry in EXIT_CODES.items() if entry.then in then}


def test_every_error_has_a_code_of_the_table() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.UserError)]
    assert {c.exit_code for c in classes} - {71} <= set(EXIT_CODES)


def test_the_page_of_the_commands_has_the_table() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs" / "cli.md").read_text(), re.M))
    assert {int(code): text for code, text in rows.items()} == {c: e.meaning for c, e in EXIT_CODES.items()}


def test_the_page_of_the_daily_job_says_what_schedulers_do_with_each() -> None:
    page = (ROOT / "docs" / "daily.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \|.*\| ([^|]*) \| [^|]* \| [^|]* \|$", page, re.M)
    airflow = {int(code): what for listed, what in rows for code in listed.split(",")}
    assert {code for code, what in airflow.items() if what == "retried"} == codes("retry", "wait") & set(airflow)
    assert {code for code, what in airflow.items() if what == "failed"} == codes("look") & set(airflow)
    assert set(airflow) >= set(EXIT_CODES) - {0, 1, 2, 137}  # a success, and "other"


def test_airflow_gives_up_where_another_try_ends_the_same_way() -> None:
    (found,) = re.findall(r"^FINAL = (\{.*?\})", (ROOT / "cluster" / "airflow_daily.py").read_text(), re.M)
    assert yaml.safe_load(found.replace("{", "[").replace("}", "]")) == sorted(codes("look"))


def test_the_script_of_the_cron_job_tries_again_where_it_may_help() -> None:
    script = (ROOT / "cluster" / "start-daily.sh").read_text()
    (retried,) = re.findall(r"^ +lost \| ([\d |]+)\)$", script, re.M)
    assert {int(code) for code in retried.split("|")} == codes("retry")
    (waited,) = re.findall(r"^ +(\d+)\) ;;$", script, re.M)
    assert {int(waited)} == codes("wait")


def test_the_cron_job_is_final_where_its_script_ended_by_itself() -> None:
    manifests = yaml.safe_load_all((ROOT / "cluster" / "cronjob-daily.yaml").read_text())
    (job,) = [m for m in manifests if m["kind"] == "CronJob"]
    (rule,) = [r for r in job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"] if r["action"] == "FailJob"]
    # A pod whose shell a signal ended is replaced, and the new one waits for the job that it finds
    assert set(rule["onExitCodes"]["values"]) == set(EXIT_CODES) - {0, 129, 137, 143}
