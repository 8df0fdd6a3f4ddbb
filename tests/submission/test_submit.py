"""A job is started once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from raymtl.errors import ClusterError, ConfigError, TryLaterError
from raymtl.submission.package import environment, runtime_env
from raymtl.submission.request import Request
from raymtl.submission.submit import DIGEST, Driver, Submitted, digest, entrypoint, submit
from tests.helpers.fake_jobs import FakeClient, job, jobs_of

REQUEST = Request(("train", "--config", "c.yaml"), "name: a\n", "raymtl-train-a")
SURROUNDINGS, DRIVER = {"env_vars": {"A": "b"}}, Driver(2, None, {"driver": 1})
OTHER = {DIGEST: "of other work"}
SAME = {DIGEST: digest(REQUEST, SURROUNDINGS, DRIVER)}


def run(client: FakeClient) -> Submitted:
    return submit(jobs_of(client), REQUEST, "the command", SURROUNDINGS, DRIVER)


def test_a_first_attempt_has_the_name_alone() -> None:
    client = FakeClient(job("raymtl-train-ab", "RUNNING"), job("raymtl-train-a-b", "FAILED", 65))
    assert run(client) == Submitted("raymtl-train-a", "started")
    assert client.submitted == [
        {
            "entrypoint": "the command",
            "submission_id": "raymtl-train-a",
            "runtime_env": {"env_vars": {"A": "b"}},
            "metadata": SAME,
            "entrypoint_num_cpus": 2,
            "entrypoint_memory": None,
            "entrypoint_resources": {"driver": 1},
        }
    ]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([("", "FAILED", SAME)], ("-a2", "started")),
        ([("", "STOPPED", OTHER)], ("-a2", "started")),
        ([("", "FAILED", SAME), *((f"-a{n}", "FAILED", SAME) for n in range(2, 11))], ("-a11", "started")),
        ([("", "RUNNING", SAME)], ("", "running")),
        ([("", "PENDING", SAME)], ("", "running")),
        ([("", "FAILED", SAME), ("-a2", "RUNNING", SAME)], ("-a2", "running")),
        ([("", "SUCCEEDED", SAME)], ("", "done")),
        ([("", "FAILED", SAME), ("-a2", "SUCCEEDED", SAME)], ("-a2", "done")),
        ([("", "SUCCEEDED", OTHER)], ("-a2", "started")),
        ([("", "SUCCEEDED", SAME), ("-a2", "FAILED", OTHER)], ("-a3", "started")),
    ],
)
def test_what_is_under_way_or_done_is_not_started_again(
    known: list[tuple[str, str, dict[str, str]]], expected: tuple[str, str]
) -> None:
    client = FakeClient(*(job(f"raymtl-train-a{end}", status, metadata=of) for end, status, of in known))
    submitted = run(client)
    assert (submitted.id.removeprefix("raymtl-train-a"), submitted.how) == expected
    assert len(client.submitted) == (expected[1] == "started")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "slot.py").write_text("WIDTH = 8\n")
    (folder / ".gitignore").write_text("/runs/\n")
    (tmp_path / "requirements.txt").write_text("polars==1.0\n")
    return folder


def _digest(code: Path, env: Sequence[str] = ("A=b",), driver: Driver = DRIVER, request: Request = REQUEST) -> str:
    pip = str(code.parent / "requirements.txt")
    with runtime_env(request.config, str(code), pip, environment(env)) as surroundings:
        return digest(request, surroundings, driver)


def test_the_digest_is_that_of_arguments_code_packages_and_resources(code: Path) -> None:
    first = _digest(code)
    assert _digest(code) == first
    assert _digest(code, request=Request(REQUEST.words, "name: b\n", REQUEST.id)) != first
    assert _digest(code, request=Request((*REQUEST.words, "--dry-run"), REQUEST.config, REQUEST.id)) != first
    assert _digest(code, driver=Driver(2, 1 << 30, {"driver": 1})) != first
    assert _digest(code, env=("A=b", "B=b")) != first
    assert _digest(code, env=("A=a fresh key",)) == first
    requirements = code.parent / "requirements.txt"
    requirements.write_text("polars==1.1\n")
    second = _digest(code)
    assert second != first
    (code / "mine" / "slot.py").write_text("WIDTH = 9\n")
    assert _digest(code) not in (first, second)


def test_what_is_not_uploaded_does_not_change_the_digest(code: Path) -> None:
    first = _digest(code)
    for left_out in (".git/HEAD", ".venv/a.py", "mine/__pycache__/slot.pyc", "runs/a/config.yaml"):
        (code / left_out).parent.mkdir(parents=True, exist_ok=True)
        (code / left_out).write_text("of another time")
    assert _digest(code) == first


def test_other_work_of_the_same_name_is_not_taken_for_this() -> None:
    client = FakeClient(job("raymtl-train-a", "RUNNING", metadata=OTHER))
    with pytest.raises(TryLaterError, match="running with other arguments"):
        run(client)
    assert client.submitted == []


def test_two_that_submit_at_once_start_one_job() -> None:
    client = FakeClient()
    real = client.submit_job

    def other_first(**values: object) -> str:
        client.submit_job = real
        client.jobs.append(job("raymtl-train-a", "RUNNING", metadata=SAME))
        return real(**values)

    client.submit_job = other_first
    assert run(client) == Submitted("raymtl-train-a", "running")
    assert len(client.jobs) == 1


def test_an_answer_that_is_lost_does_not_start_a_second_job() -> None:
    client = FakeClient()
    real = client.submit_job

    def lost(**values: object) -> str:
        real(**values)
        raise ConnectionError("the line is dead")

    client.submit_job = lost
    assert run(client) == Submitted("raymtl-train-a", "running")
    assert len(client.jobs) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ("500: No available agent to submit job, please try again later..", TryLaterError, "its head is starting"),
        (
            "500: Traceback (most recent call last):\n  x\nValueError: Package size is too much",
            ClusterError,
            "is too much; read dashboard.log",
        ),
    ],
)
def test_a_head_that_does_not_take_the_job(answer: str, kind: type[Exception], said: str) -> None:
    client = FakeClient()

    def refuse(**values: object) -> str:
        raise RuntimeError(f"Request failed with status code {answer}")

    client.submit_job = refuse
    with pytest.raises(kind, match=said):
        run(client)


def test_what_cannot_be_packed_is_said_in_one_sentence() -> None:
    client = FakeClient()

    def refuse(**values: object) -> str:
        raise ValueError("package is 900 MiB\nand so on")

    client.submit_job = refuse
    with pytest.raises(
        ConfigError, match=r"cannot package the job with --working-dir `.*`: package is 900 MiB; fix the folder"
    ):
        run(client)


def test_the_command_is_quoted_for_the_shell() -> None:
    line = entrypoint(("train", "--set", "a=[1, $(reboot)]; rm"), "torch==2.13.0")
    assert line == "python -m raymtl --require torch==2.13.0 train --set 'a=[1, $(reboot)]; rm'"
    assert "--require" not in entrypoint(("train",), None)
