"""What `raymtl` and `python -m raymtl` run."""

import os
import signal
from types import FrameType


def _stopped(number: int, frame: FrameType | None) -> None:
    """Until `raymtl.signals` is there, which takes a moment to import."""
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    os.write(2, f"raymtl: stopped{name}\n".encode())
    os._exit(128 + number)


for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is not signal.SIG_IGN:
        signal.signal(_number, _stopped)

from raymtl import signals  # noqa: E402
from raymtl.quick_imports import without_gc  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Handle signals from the first moment on, before anything that takes time is imported; then run the command."""
    signals.install()
    with without_gc():
        from raymtl.cli.main import main as run
    run(arguments)


if __name__ == "__main__":
    main()
