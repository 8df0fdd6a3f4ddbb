"""The exit codes of all commands; tests compare the docs and the schedulers' files of cluster/ with this table."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ExitCode:
    """How a command ended."""

    meaning: str
    then: Literal["done", "look", "retry", "wait"]
    """`look`: a retry would end the same way, a person has to act; `retry`: retry a few times; `wait`: retry for hours."""


EXIT_CODES = {
    0: ExitCode("done (also `train` on a run that has finished)", "done"),
    1: ExitCode(
        "`plan`: the tables do not fit; `report`: the folder is not a run; with a traceback: a bug in raymtl", "retry"
    ),
    2: ExitCode("the command line itself is wrong", "look"),
    64: ExitCode(
        "the configuration is not valid, or differs from that of the run it names; an address or a URL is not valid",
        "look",
    ),
    65: ExitCode("the data violate their contract: a file, a column, a value", "look"),
    66: ExitCode(
        "a checkpoint, an ID map or a version is missing, damaged, or of another model; `evaluate`: no such run; "
        "`jobs`: no such job",
        "look",
    ),
    69: ExitCode(
        "the cluster is not reachable, rejects the token, or has too few resources for the workers; `doctor`: a check failed",
        "retry",
    ),
    70: ExitCode("`daily`: the gate refused the candidate; the published version stays current", "look"),
    71: ExitCode(
        "torch, torchrec and fbgemm do not fit together; a job: the cluster has other versions than the machine that "
        "submitted it",
        "look",
    ),
    74: ExitCode(
        "storage failed during a read or write (logs, runs, versions or temporary files), is full, or is not writable",
        "retry",
    ),
    75: ExitCode(
        "try again later: another process uses the same store, the day's logs are not there yet, or another run, search or "
        "job of that name is running",
        "wait",
    ),
    129: ExitCode("the terminal was closed (SIGHUP)", "retry"),
    130: ExitCode("Ctrl-C (SIGINT), or the job was stopped", "look"),
    137: ExitCode("the command was killed (SIGKILL), usually out of memory", "retry"),
    143: ExitCode("SIGTERM: a scheduler, `ray job stop` or a machine shutdown ended the command", "retry"),
}
