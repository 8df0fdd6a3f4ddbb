"""The log of a job comes whole and once, and its exit code is that of the command inside."""

import io
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from raymtl.cli import submit
from raymtl.cli.main import run_command
from raymtl.errors import ClusterError
from raymtl.submission import follow
from raymtl.submission.follow import Log, exit_code
from tests.helpers.fake_jobs import FakeClient, job, jobs_of

RUNNING, DONE = job("a", "RUNNING"), job("a", "SUCCEEDED", 0)
WHOLE = ["one\n", "two\n", "three\n"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0)


def _followed(client: FakeClient) -> tuple[str, object]:
    out = io.StringIO()
    info = Log(jobs_of(client), "a", out).follow()
    return out.getvalue(), info


def test_a_log_that_ends_well() -> None:
    client = FakeClient()
    client.states, client.streams = [job("a", "PENDING"), RUNNING, DONE], [WHOLE]
    assert _followed(client) == ("one\ntwo\nthree\n", DONE)


@pytest.mark.parametrize(
    "lost",
    [
        RuntimeError("closed unexpectedly"),
        aiohttp.ClientConnectionError("reset"),
        ConnectionError("refused"),
        TimeoutError(),
    ],
)
def test_a_lost_connection_neither_ends_nor_doubles_the_log(lost: Exception) -> None:
    client = FakeClient()
    client.states = [RUNNING, lost, RUNNING, RUNNING, DONE]
    # the pieces need not be the same the next time, and a proxy may end a stream as if it were over
    client.streams = [["one\nt", lost], ["one\n", "two\n", lost], ["one\ntwo\nth"], WHOLE]
    assert _followed(client)[0] == "one\ntwo\nthree\n"


def test_a_restarted_head_is_reported() -> None:
    client = FakeClient()
    client.states = [RUNNING, RuntimeError("Request failed with status code 404: Job a does not exist.")]
    client.streams = [["one\n"]]
    with pytest.raises(ClusterError, match="no longer knows the job `a`: its head was restarted"):
        _followed(client)


def test_a_cluster_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE_S", 0.0)
    client = FakeClient()
    client.states, client.streams = [RUNNING, ConnectionError("refused")], [["one\n"]]
    with pytest.raises(ClusterError, match="not answered for 0 s"):
        _followed(client)


class Clock:
    """Stands still but for what the test adds."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Hours(FakeClient):
    """A client whose followers hear nothing for three hours, and then lose the connection."""

    clock: Clock

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        async for piece in super().tail_job_logs(name):
            yield piece
        if len(self.streams) > 1:
            self.clock.now += 3 * 3600
            raise RuntimeError("WebSocket connection closed unexpectedly")


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    client = Hours()
    client.clock = Clock()
    monkeypatch.setattr(follow, "time", client.clock)
    monkeypatch.setattr(follow, "POLL_S", 1.0)
    return client


def test_a_connection_lost_after_hours_is_made_again(hours: Hours) -> None:
    refused = ConnectionError("refused")
    # a minute, and nearly two, of a head that does not answer, with an answer in between
    hours.states = [RUNNING, *[refused] * 60, RUNNING, *[refused] * 119, RUNNING, DONE]
    hours.streams = [["one\n"], ["one\ntwo\n"], WHOLE, WHOLE]
    assert _followed(hours)[0] == "one\ntwo\nthree\n"


def test_a_cluster_is_given_up_two_minutes_after_the_connection_was_lost(hours: Hours) -> None:
    hours.states, hours.streams = [RUNNING, ConnectionError("refused")], [["one\n"], WHOLE, WHOLE]
    with pytest.raises(ClusterError, match="not answered for 120 s"):
        _followed(hours)
    assert 120 < hours.clock.now - 3 * 3600 <= 122


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 65, 65),
        ("FAILED", 70, 70),
        ("FAILED", 75, 75),
        ("FAILED", -9, 137),
        ("STOPPED", None, 130),
    ],
)
def test_exit_codes(status: str, code: int | None, expected: int) -> None:
    assert exit_code(job("a", status, code)) == expected


def test_a_command_that_never_began_has_no_exit_code() -> None:
    with pytest.raises(ClusterError, match="ended without an exit code: runtime_env setup failed"):
        exit_code(job("a", "FAILED", message="runtime_env setup failed\nTraceback"))


class TestCommand:
    """`raymtl jobs` and the end of `raymtl submit`."""

    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
        client = FakeClient()
        monkeypatch.setattr("raymtl.submission.client.connect", lambda address: jobs_of(client))
        return client

    def test_the_log_goes_to_standard_output_and_the_rest_to_the_other(
        self, client: FakeClient, capfd: pytest.CaptureFixture[str]
    ) -> None:
        client.states, client.streams = [job("a", "FAILED", 65)], [["raymtl: broken\n"]]
        assert run_command(["jobs", "logs", "a", "--follow"]) == 65
        printed = capfd.readouterr()
        assert printed.out == "raymtl: broken\n"
        assert printed.err == "raymtl: a failed, exit code 65\n"

    def test_no_raymtl_on_the_cluster(self, client: FakeClient, capfd: pytest.CaptureFixture[str]) -> None:
        client.states = [job("a", "FAILED", 1)]
        client.streams = [["/usr/bin/python: No module named raymtl\n"]]
        assert run_command(["jobs", "logs", "a", "-f"]) == 1
        assert "upload a checkout with --working-dir" in capfd.readouterr().err

    def test_stop(self, client: FakeClient, capfd: pytest.CaptureFixture[str]) -> None:
        client.states = [RUNNING, RUNNING, job("a", "STOPPED")]
        assert run_command(["jobs", "stop", "a"]) == 0
        assert client.stopped == ["a"]
        assert capfd.readouterr().err == "raymtl: a: stopped\n"

    def test_stop_what_has_ended(self, client: FakeClient, capfd: pytest.CaptureFixture[str]) -> None:
        client.states = [DONE]
        assert run_command(["jobs", "stop", "a"]) == 0
        assert "had already ended (succeeded)" in capfd.readouterr().err

    def test_unknown_job(self, client: FakeClient, capfd: pytest.CaptureFixture[str]) -> None:
        for command in (["logs", "a"], ["logs", "a", "-f"], ["stop", "a"]):
            assert run_command(["jobs", *command]) == 66
            assert "has no job `a`" in capfd.readouterr().err

    def test_list(self, client: FakeClient, capfd: pytest.CaptureFixture[str]) -> None:
        client.jobs = [
            job("late", "RUNNING", start_time=2000),
            job("early", "FAILED", 65, start_time=1000, end_time=4000),
        ]
        assert run_command(["jobs", "list", "--json"]) == 0
        _, *lines, last = capfd.readouterr().out.splitlines()
        assert [line.split()[:3] for line in lines] == [["early", "failed", "65"], ["late", "running", "1970-01-01"]]
        assert '"id": "early", "state": "FAILED", "exit_code": 65' in last

    def test_json_lines(
        self, client: FakeClient, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAYMTL_LOG", "json")
        monkeypatch.setattr(submit, "console", submit.terminal())
        assert run_command(["jobs", "list"]) == 0
        assert json.loads(capfd.readouterr().out)["message"].startswith("no job was submitted")

    def test_submit_prints_the_id_and_nothing_else(self, client: FakeClient, capfd: pytest.CaptureFixture[str]) -> None:
        for said in ("is submitted to http://head:8265", "is already running"):
            assert (
                run_command(["submit", "evaluate", "/runs/a", "--id", "mine", "--no-wait", "--env", "A=hunter2"]) == 0
            )
            printed = capfd.readouterr()
            assert printed.out == "mine\n"
            assert said in printed.err
            assert "hunter2" not in printed.out + printed.err
        (job_,) = client.submitted
        assert job_["runtime_env"] == {"env_vars": {"A": "hunter2"}}
        assert " evaluate /runs/a" in job_["entrypoint"]
        assert "torch==" in job_["entrypoint"]
