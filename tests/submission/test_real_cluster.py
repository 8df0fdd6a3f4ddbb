"""One submission to a Ray that `ray start` began, with a token, as docs/cluster.md has it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.helpers.terminal import RAYMTL, Terminal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-this-test-alone-0123456789"


@dataclass
class Started:
    """A Ray of one node."""

    address: str
    node: str
    """Address of its head, for drivers."""
    environment: dict[str, str]

    def raymtl(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "raymtl", *words, "--address", self.address],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        gcs, dashboard, client, agent = (one.getsockname()[1] for one in sockets)
    # Short, since the names of sockets may not be long
    with TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_worker_niceness": "0",
        }
        ray = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"),
                *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
                *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
                *(f"--temp-dir={folder}", "--object-store-memory=100000000", "--disable-usage-stats"),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            for _ in range(1200):
                assert ray.poll() is None
                try:
                    urllib.request.urlopen(f"{address}/api/version", timeout=5)
                except urllib.error.HTTPError:  # it is there and wants its token
                    break
                except OSError:
                    time.sleep(0.1)
            yield Started(address, f"127.0.0.1:{gcs}", environment)
        finally:
            ray.send_signal(signal.SIGTERM)
            try:
                ray.wait(30)
            finally:
                if ray.poll() is None:
                    os.killpg(ray.pid, signal.SIGKILL)


JOIN = """
import sys, ray
from raymtl.training import cluster

for _ in range(2):  # an idle follower leaves, and joins again for the next day
    assert not cluster.join(sys.argv[1], 0)
    assert ray.is_initialized()
    cluster.leave()
    assert not ray.is_initialized()
assert not cluster.join(sys.argv[1], 0)
assert ray.cluster_resources()["CPU"] == 1
"""


def test_a_cluster_that_was_joined_can_be_left_and_joined_again(started: Started) -> None:
    words = [sys.executable, "-c", JOIN, started.node]
    done = subprocess.run(words, env=started.environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_leaves_the_job_alone(started: Started, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "wait.py").write_text("print('at work', flush=True); import time; time.sleep(600)")
    client = JobSubmissionClient(started.address, headers={"Authorization": f"Bearer {TOKEN}"})
    job = {"entrypoint": "python wait.py", "runtime_env": {"working_dir": str(tmp_path / "code")}}
    for _ in range(120):
        try:
            client.submit_job(submission_id="long", **job)
            break
        except RuntimeError as error:  # the cluster is still starting
            if "No available agent" not in str(error):
                raise
            time.sleep(0.5)
    follow = [*RAYMTL, "jobs", "logs", "long", "--follow", "--address", started.address]
    with Terminal(follow, columns=200, env=started.environment) as terminal:
        terminal.wait_for("at work")
        terminal.type(b"\x03")
        assert terminal.wait(10) == 130
    assert f"raymtl jobs stop long --address {started.address}" in terminal.text
    assert "raymtl: stopped following long; the job keeps running" in terminal.text
    assert "Traceback" not in terminal.text
    assert client.get_job_status("long") == JobStatus.RUNNING
    client.stop_job("long")


def test_the_exit_code_of_the_command_inside(started: Started, tmp_path: Path) -> None:
    config = tmp_path / "conf.yaml"
    config.write_text(f"{(ROOT / 'jobs' / 'conf' / 'example.yaml').read_text()}\nmodle: {{}}\n")
    # Behind a URL, so that the mistake is found over there; by a command that needs no torch for it
    done = started.raymtl(tmp_path, "submit", "check", "--config", config.as_uri(), "--id", "first")
    assert done.returncode == 64, done.stderr
    assert "modle is an unknown key; did you mean `model`?" in done.stdout
    assert done.stderr.splitlines() == [
        f"raymtl: first is submitted to {started.address}",
        "raymtl: first failed, exit code 64",
    ]
    listed = json.loads(started.raymtl(tmp_path, "jobs", "list", "--json").stdout.splitlines()[-1])["jobs"]
    found = [
        (one["state"], one["exit_code"]) for one in listed if one["id"] == "first"
    ]  # the cluster may have had others
    assert found == [("FAILED", 64)]
