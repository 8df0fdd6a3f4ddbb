"""The exit codes of all commands; tests hold the docs and the schedulers' files of cluster/ against this table."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ExitCode:
    """What a command ended with."""

    meaning: str
    then: Literal["done", "look", "retry", "wait"]
    """`look`: the same command would end the same way, somebody has to act; `retry`: try a few times; `wait`: try for hours."""


EXIT_CODES = {
    0: ExitCode("done (`train` on a finished run: nothing to do, and it says so)", "done"),
    1: ExitCode(
        "`plan`: the tables do not fit; `report`: the folder is not a run; with a traceback: a bug in raymtl", "retry"
    ),
    2: ExitCode("the command line itself is wrong", "look"),
    64: ExitCode("the configuration is not valid, or not that of the run it names", "look"),
    65: ExitCode("the data break their contract: a file, a column, a value", "look"),
    66: ExitCode(
        "a checkpoint, an ID map or a version is missing, damaged, or of another model; `evaluate`: there is no such run; "
        "`jobs`: no such job",
        "look",
    ),
    69: ExitCode(
        "the cluster is not reachable, does not accept the token, or has no room for the workers; `doctor`: a check failed",
        "retry",
    ),
    70: ExitCode("`daily`: the gate refused the candidate; what was published before stays", "look"),
    71: ExitCode(
        "torch, torchrec and fbgemm do not fit together; a job: the cluster has other versions than the machine that "
        "submitted it",
        "look",
    ),
    74: ExitCode(
        "storage failed while it was read or written (logs, runs or versions), cannot be written, or is full", "retry"
    ),
    75: ExitCode(
        "try again later: another process works on the same run or store, the day's logs are not there yet, or another job of "
        "that name is running",
        "wait",
    ),
    129: ExitCode("the terminal was closed (SIGHUP)", "retry"),
    130: ExitCode("Ctrl-C (SIGINT), or somebody stopped the job", "look"),
    137: ExitCode("the command was killed (SIGKILL), as a rule for want of memory", "retry"),
    143: ExitCode("SIGTERM: a scheduler, `ray job stop` or a machine that shuts down ended the command", "retry"),
}
