"""Processes forked from one that has imported everything, since imports take most of the time of a small run.

A forked process has its own environment, streams and exit code, as one that was started has; only what Python and its packages do
while they are imported is shared. So tests of that (warnings, signals during imports) start a process.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
SOCKET = "RAYMTL_TESTS_FORK_SERVER"
"""Environment variable with the path of the server's socket: the processes that Ray starts find it there."""
PRELOADED = (
    *("raymtl.training.worker", "raymtl.training.driver", "raymtl.model_store.loader", "raymtl.serving.score"),
    *("raymtl.daily.runner", "raymtl.tuning.run", "raymtl.reports.html", "raymtl.reports.progress", "ray.train.v2"),
)


class Forked:
    """A child of the server; what `subprocess.Popen` has, as far as the tests need it."""

    stdout: IO[str]
    stderr: IO[str]
    """Only of a process on pipes."""

    def __init__(self, request: dict[str, Any], streams: list[int], path: str):
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(path)
        text = json.dumps(request).encode()
        socket.send_fds(self._server, [len(text).to_bytes(8, "big")], streams)
        self._server.sendall(text)
        self._lines = self._server.makefile()
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code once it has ended."""
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._lines.readline() or -signal.SIGKILL)
            self._server.close()
        return self.returncode

    def kill(self) -> None:
        """Kill it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def start_server() -> str:
    """The socket of this process's server, which starts with the first call and ends with this process."""
    if not (path := os.environ.get(SOCKET)):
        path = f"{tempfile.mkdtemp(prefix='raymtl-fork-')}/socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(64)  # whoever comes while it imports waits
        os.environ[SOCKET] = path
        command = [sys.executable, "-m", "tests.helpers.fork_server", str(listener.fileno()), str(os.getpid())]
        # Ray reads these once, when it is imported. The job is none: a worker gets one with its first task. It ends when its
        # raylet closes the connection, or when this process has ended
        environment = os.environ | {"RAY_JOB_ID": "ffffffff", "RAY_RAYLET_PID": str(os.getpid())}
        subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
        listener.close()
    return path


def fork_command(
    words: list[str], streams: list[int], environment: dict[str, str], cwd: Path, *, terminal: bool
) -> Forked:
    """`raymtl words` as a fork, with standard streams of its own; `terminal`: they are a terminal that it controls."""
    request = {"command": words, "environment": environment, "cwd": str(cwd), "terminal": terminal}
    return Forked(request, streams, start_server())


@contextmanager
def forked_ray_workers() -> Iterator[None]:
    """Make the Ray that starts here fork its workers."""
    from ray._private import ray_constants

    start_server()
    before = ray_constants.SETUP_WORKER_FILENAME
    ray_constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name("forked_worker.py"))
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = before


def _serve(listener: socket.socket, owner: int) -> Callable[[], None]:
    """Fork a child for each request; returns in the child, with what it has to do."""
    children: dict[int, socket.socket] = {}
    while os.getppid() == owner:
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            answer = children.pop(ended[0])
            _tell(answer, os.waitstatus_to_exitcode(ended[1]))
            answer.close()
        if not select.select([listener], [], [], 0.02 if children else 0.5)[0]:
            continue
        answer, _ = listener.accept()
        size, streams, *_ = socket.recv_fds(answer, 8, 3)
        request = json.loads(answer.makefile("rb").read(int.from_bytes(size, "big")))
        if pid := os.fork():
            children[pid] = answer
            _tell(answer, pid)
            for stream in streams:
                os.close(stream)
            continue
        for other in (listener, answer, *children.values()):
            other.close()
        return _child(request, streams)
    shutil.rmtree(Path(os.environ[SOCKET]).parent, ignore_errors=True)
    raise SystemExit


def _tell(answer: socket.socket, number: int) -> None:
    with suppress(OSError):  # nobody waits for it any more
        answer.sendall(f"{number}\n".encode())


def _child(request: dict[str, Any], streams: list[int]) -> Callable[[], None]:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    path = os.environ[SOCKET]
    os.environ.clear()
    os.environ.update(request["environment"] | {SOCKET: path})
    os.chdir(request["cwd"])
    if "worker" in request:
        os.setpgrp()  # a raylet ends the process group of a worker that has ended
    if request.get("terminal"):
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin = os.fdopen(0, closefd=False)
    for number, name in ((1, "stdout"), (2, "stderr")):
        lines = number == 2 or os.isatty(number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1 if lines else -1, closefd=False))
        setattr(sys, f"__{name}__", getattr(sys, name))
    import numpy as np
    import torch
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # Ray has read the environment when it was imported
    Config.initialize("")
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, True)
    AuthenticationTokenLoader.instance().reset_cache()
    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    return (
        (lambda: _run_worker(request["worker"])) if "worker" in request else (lambda: _run_command(request["command"]))
    )


def _run_worker(words: list[str]) -> None:
    """What Ray's setup_worker.py does, without another process."""
    import runpy

    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.workers import setup_worker

    own, rest = setup_worker.parser.parse_known_args(words)
    context = RuntimeEnvContext.deserialize(own.serialized_runtime_env_context or "{}")
    if context.command_prefix or context.override_worker_entrypoint or context.py_executable != sys.executable:
        context.exec_worker(rest, own.language)
    os.environ.update(context.env_vars)
    if threads := os.environ.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")


def _run_command(words: list[str]) -> None:
    from raymtl import __main__

    sys.argv = ["raymtl", *words]
    with forked_ray_workers():
        __main__.main()


class _UnseededID:
    @staticmethod
    def from_random() -> Any:
        """An ID of a class with `ray.remote`, without Ray's generator."""
        from ray import ActorClassID

        return ActorClassID(os.urandom(ActorClassID.size()))


def main() -> None:
    """The server: `python -m tests.helpers.fork_server LISTENER OWNER`."""
    import gc
    import importlib

    import ray

    # Ray's generator of IDs is seeded when it is first used: here, all children would draw the same ones
    drawn, ray.actor.ActorClassID = ray.actor.ActorClassID, _UnseededID
    for name in PRELOADED:
        importlib.import_module(name)
    ray.actor.ActorClassID = drawn
    ray._raylet.setproctitle("raymtl fork server")  # finds its place by the environment, which must still be as it was
    gc.collect()
    gc.freeze()  # so that a collection in a child copies no page
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        job = _serve(listener, int(sys.argv[2]))
    job()


if __name__ == "__main__":
    main()
