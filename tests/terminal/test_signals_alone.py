"""`raymtl.signals` in processes of its own: what no command shows at will."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers.terminal import ROOT, clean_environment

WAITS = """
import sys, time
from raymtl import signals
signals.install()
signals.begin("stopped")
try:
    print("ready", flush=True)
{body}
except KeyboardInterrupt:
    time.sleep({clean_up_s})
    print("cleaned up", flush=True)
signals.end(0)
"""


@contextmanager
def process(body: str = "time.sleep(60)", clean_up_s: float = 0, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready for signals and then does what `body` says; once interrupted it cleans up for so long."""
    code = WAITS.format(body=textwrap.indent(body, "    "), clean_up_s=clean_up_s)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), **streams) as made:  # type: ignore[call-overload]
        assert made.stdout.readline() == "ready\n"
        try:
            yield made
        finally:
            made.kill()


def test_the_same_signal_twice_at_once_is_one() -> None:
    """GNU timeout sends SIGTERM to the process and then to its group."""
    with process(clean_up_s=1) as made:
        for _ in range(2):
            made.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        output, error = made.communicate(timeout=20)
    assert (made.returncode, output, error) == (143, "cleaned up\n", "raymtl: stopped by SIGTERM\n")


def test_a_clean_up_that_asks_for_more_time_first_gets_it() -> None:
    """The main thread may be faster than the one that watches the time."""
    body = """
        try:
            waits = signals.select.select
            signals.select.select = lambda *what: (waits(*what), time.sleep(0.5))[0]
            time.sleep(60)
        except KeyboardInterrupt:
            signals.allow(30)
            raise"""
    with process(textwrap.dedent(body), clean_up_s=4) as made:
        time.sleep(0.3)  # it is past its line by now
        made.send_signal(signal.SIGTERM)
        output, error = made.communicate(timeout=20)
    assert (made.returncode, output, error) == (143, "cleaned up\n", "raymtl: stopped by SIGTERM\n")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_later_ends_at_once(second: signal.Signals) -> None:
    with process(clean_up_s=30) as made:
        made.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        made.send_signal(second)
        sent = time.monotonic()
        output, error = made.communicate(timeout=20)
    assert (made.returncode, output, error) == (143, "", "raymtl: stopped by SIGTERM\n")
    assert time.monotonic() - sent < 5


def test_a_clean_up_that_hangs_is_cut_off() -> None:
    with process(clean_up_s=50) as made:
        made.send_signal(signal.SIGINT)
        _, error = made.communicate(timeout=20)
    assert (made.returncode, error) == (130, "raymtl: stopped\n")


def test_an_error_stream_that_nobody_reads_does_not_keep_it() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with process(stderr=writer) as made:
        made.send_signal(signal.SIGTERM)
        assert made.wait(20) == 143
    os.close(reader)
    os.close(writer)


def test_a_forked_child_ends_alone() -> None:
    body = """
import os, signal
child = os.fork()
if not child:
    time.sleep(60)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
time.sleep(1)
print("still here", time.process_time() < 1, flush=True)
"""
    with process(body) as made:
        output, error = made.communicate(timeout=20)
    assert (made.returncode, output, error) == (0, "child -15\nstill here True\n", "")


def test_an_interrupt_that_python_drops_ends_the_process() -> None:
    body = """
class Slow:
    def __del__(self):
        print("in the destructor", flush=True)
        time.sleep(60)
Slow()
"""
    with process(body) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == "in the destructor\n"
        made.send_signal(signal.SIGTERM)
        _, error = made.communicate(timeout=20)
    assert (made.returncode, error) == (143, "raymtl: stopped by SIGTERM\n")


def test_an_ignored_signal_stays_ignored() -> None:
    with process(
        "time.sleep(1)\nprint('done', flush=True)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as made:
        made.send_signal(signal.SIGHUP)
        output, error = made.communicate(timeout=20)
    assert (made.returncode, output, error) == (0, "done\n", "")


def test_children_end_too(tmp_path: Path) -> None:
    body = "import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\ntime.sleep(60)"
    with process(body) as made:
        assert made.stdout is not None
        child = int(made.stdout.readline())
        made.send_signal(signal.SIGTERM)
        assert made.wait(20) == 143
    end = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
