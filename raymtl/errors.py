"""Errors that a user can fix: each says what is wrong, where, the value seen, and the remedy.

The command line prints such an error as one sentence without a traceback and ends with its exit code
(`docs/cli.md` lists them). Anything else that escapes is a bug in raymtl and shows its traceback.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A mistake outside raymtl's own code; `exit_code` is what the process returns."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message  # Ray Data appends its own advice to `args`

    def __str__(self) -> str:
        return self.message

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(UserError):
    """The configuration is not valid."""

    exit_code = 64


class DataError(UserError):
    """The data set breaks its contract (a file, a column, a value)."""

    exit_code = 65


class ClusterError(UserError):
    """The cluster cannot run the job: too few CPUs or GPUs, or not reachable."""

    exit_code = 69


class NodesLostError(ClusterError):
    """Nodes were lost, and no others came in time."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another model."""

    exit_code = 66


class VersionError(UserError):
    """A version of the store is missing, damaged, or does not fit the model."""

    exit_code = 66


class RefusedError(UserError):
    """The gate refused the candidate; the published version stays current."""

    exit_code = 70


class StorageError(UserError):
    """Storage failed: full, not writable, not reachable."""

    exit_code = 74


class TryLaterError(UserError):
    """Nothing is wrong, but it is too early: another process holds the lease, or the input is not there yet."""

    exit_code = 75


class LeaseLostError(TryLaterError):
    """Another process took this one for dead and may have replaced it."""


def find_user_error(error: BaseException | None) -> UserError | None:
    """The UserError inside an exception, through Ray's `cause` and Python's chaining."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, UserError):
            # Ray makes a class that is both RayTaskError and the cause's; its text holds a remote traceback
            cause = getattr(current, "cause", None)
            return cause if isinstance(cause, UserError) else current
        waiting += [getattr(current, "cause", None), current.__cause__, current.__context__]
    return None


def user_errors(items: Iterable[T]) -> Iterator[T]:
    """Yield the items; raise an error that Ray wrapped in a task as the UserError it was."""
    try:
        yield from items
    except Exception as error:
        found = find_user_error(error)
        if found is not None:
            raise found from None
        raise
