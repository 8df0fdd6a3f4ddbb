"""Log lines: readable ones, or one JSON object each where the environment has `RAYMTL_LOG=json`.

A worker writes its lines to standard error, which Ray keeps in the log files of the node. A driver writes them where the command
prints. A JSON line holds `time` (UTC), `level`, `message`, and if known `run`, `rank`, `step`, `unit`, `day` and `exit_code`; an
error that is a bug in raymtl has its `traceback`.
"""

import io
import logging
import os
import sys
import time
import traceback
import warnings
from types import TracebackType

from rich.console import Console

from raymtl.errors import ConfigError
from raymtl.telemetry.lines import VARIABLE, at, begin_lines, json_line, place

_PIPE_WIDTH = 140  # a file or a pipe has no width; rich would fold tables at 80
log = logging.getLogger("raymtl")


def as_json() -> bool:
    """Whether lines are JSON. Raises ConfigError if the variable is neither `text` nor `json`."""
    value = os.environ.get(VARIABLE) or "text"
    if value not in ("text", "json"):
        raise ConfigError(f"the environment variable {VARIABLE} is `{value}`; set it to `text` or `json`")
    return value == "json"


def environment() -> dict[str, str]:
    """The environment variables that give a worker's lines the format of this process."""
    return {VARIABLE: "json"} if as_json() else {}


def begin_worker(run: str, rank: int) -> None:
    """Send this worker's lines to its standard error."""
    begin_lines()
    at(run=run, rank=rank)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json()))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def terminal() -> Console:
    """The console of a command; with JSON lines each printed line becomes one."""
    if os.environ.get(VARIABLE) == "json":
        return Console(file=_JsonLines(), highlight=False, width=_PIPE_WIDTH)
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def begin_command() -> None:
    """Set up the lines of a command; an uncaught error becomes one too. Raises ConfigError as `as_json`."""
    begin_lines()
    _prepare_environment()
    if as_json():
        sys.excepthook = _crashed


def _prepare_environment() -> None:
    """Give the libraries an environment in which they can be imported, here and in the processes that a command starts."""
    # PyTorch's own imports warn: if PYTHONWARNINGS turns warnings into errors, the imports fail
    if "error" in os.environ.get("PYTHONWARNINGS", "") or any(option.startswith("error") for option in sys.warnoptions):
        os.environ.pop("PYTHONWARNINGS", None)
        sys.warnoptions.clear()
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # as Python itself does
    # Ray reads the home folder at import, and PyTorch the user name; a user without a passwd entry has neither
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"
        os.environ.setdefault("USER", str(os.getuid()))
    # If HOME is not writable, matplotlib logs the folder that it uses instead
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


class _Formatter(logging.Formatter):
    def __init__(self, json_lines: bool):
        super().__init__()
        self._json = json_lines

    def format(self, record: logging.LogRecord) -> str:
        level, message = record.levelname.lower(), record.getMessage()
        more = {}
        if record.exc_info:
            more["traceback"] = self.formatException(record.exc_info)
        if self._json:
            return json_line(level, message, **more)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.created))
        where = " ".join(f"{key}={value}" for key, value in place().items())
        return "\n".join([f"{stamp} {level} {where}: {message}", *more.values()])


class _JsonLines(io.StringIO):
    """A stream that forwards each line to standard output as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ""

    def write(self, text: str) -> int:
        *complete, self._open = (self._open + text).split("\n")
        for message in filter(str.strip, complete):
            sys.stdout.write(json_line("info", message.rstrip()) + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(json_line("critical", f"{kind.__name__}: {error}", traceback=text) + "\n")
