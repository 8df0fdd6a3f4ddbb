"""A command as a script sees it: a real process on pipes, whose lines are all raymtl's own."""

import os
import re
import subprocess
from tempfile import TemporaryFile

from tests.helpers.fork_server import Forked, fork_command
from tests.helpers.terminal import RAYMTL, ROOT, clean_environment

FOREIGN = re.compile(
    r"warning:|(?-i:WARNING)|warn\(|\.cc:\d|\.py:\d|Traceback|Stack trace|Exception ignored|Error in atexit|core_worker|ray::"
    r"|\(raylet\)|\(pid|\*\*\* SIG|torchrec|matplotlib|^\[.*\d{4}-\d\d-\d\d",
    re.IGNORECASE,
)
"""What lines of Ray, TorchRec, matplotlib and Python look like."""


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command of raymtl on two pipes."""
    return subprocess.Popen(
        [*RAYMTL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(env),
    )


def fork(*arguments: str) -> Forked:
    """Start a command of raymtl on two pipes, as a fork; see `fork_server`."""
    (output, stdout), (error, stderr) = os.pipe(), os.pipe()
    with open(os.devnull) as nothing:
        streams = [nothing.fileno(), stdout, stderr]
        process = fork_command(list(arguments), streams, clean_environment(), ROOT, terminal=False)
    os.close(stdout)
    os.close(stderr)
    process.stdout, process.stderr = os.fdopen(output), os.fdopen(error)
    return process


def finish(*arguments: str, env: dict[str, str] | None = None, forked: bool = False) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command; `forked`: see `fork_server`."""
    if forked:
        return _finish_fork(arguments, env)
    with start(*arguments, env=env) as process:
        try:
            output, error = process.communicate(timeout=400)
        finally:
            process.kill()
    return process.returncode, output, error


def _finish_fork(arguments: tuple[str, ...], env: dict[str, str] | None) -> tuple[int, str, str]:
    with open(os.devnull) as nothing, TemporaryFile("w+") as output, TemporaryFile("w+") as error:
        streams = [nothing.fileno(), output.fileno(), error.fileno()]
        process = fork_command(list(arguments), streams, clean_environment(env), ROOT, terminal=False)
        try:
            code = process.wait(400)
        finally:
            process.kill()
        output.seek(0)
        error.seek(0)
        return code, output.read(), error.read()


def run(
    *arguments: str, code: int = 0, env: dict[str, str] | None = None, forked: bool = False
) -> tuple[list[str], str]:
    """Lines of standard output, and standard error, of a command that ends with `code`."""
    found, output, error = finish(*arguments, env=env, forked=forked)
    assert found == code, output + error
    assert not foreign(output + error)
    assert len(error.splitlines()) == (0 if code == 0 else 1), error
    return output.splitlines(), error


def foreign(text: str) -> list[str]:
    """Lines that are not raymtl's."""
    return [line for line in text.splitlines() if FOREIGN.search(line)]
