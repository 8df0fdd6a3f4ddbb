"""The requirements of Ray and a run on this machine: a token, and temporary folders with enough space."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import validate_socket_filepath
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from raymtl.config.root import Config
from raymtl.data.local_ray_data import IS_LOCAL
from raymtl.embeddings.size import table_bytes
from raymtl.errors import ClusterError, ConfigError, StorageError
from raymtl.storage.temp_dirs import remove_stale

ROOM_BYTES = 64 << 20
"""Minimum space in Ray's temporary folder. Ray needs 1 MiB to start, but on a full disk it waits 30 s for its own file and
dies; its logs, 1 MiB after a short run, grow by some MiB an hour, and spilled objects need more."""

_SOCKET = "session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest path that Ray creates below its folder, as `ray._private.node` builds it."""


LOCAL_SETTINGS = {
    IS_LOCAL: "1",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_max_direct_call_object_size": "4096",
    "RAY_raylet_client_connect_timeout_milliseconds": "50",
    "RAY_raylet_client_num_connect_attempts": "200",
}
"""Settings of a Ray that starts here, unless the environment has them.

Ray's own default priority for workers, 15, is for machines where its control processes must stay reachable; here it would let
everything else take the cores from the training. Ray would start a process for each CPU and wait for them; the run starts those
that it needs. Ray would end a reader that has had nothing to read for a second, and a new one takes a second to start. Ray's
processes that do not reach another one try again after 50 ms instead of a second, for the same ten seconds. Nobody
reads the record of all tasks, nor the metrics, of which each stream of Ray Data adds its own: both grow. And Ray keeps a small
block, up to 100 KiB by default, in the process that started its reading task, if another process is the last to use it.
"""


def check_this_machine() -> None:
    """Raise a UserError if Ray cannot start here; set a token in the environment if Ray cannot write one to HOME.

    ConfigError: the path of the temporary folder is relative or too long. StorageError: it cannot be written, or its disk full.
    """
    folder = get_default_ray_temp_dir()
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    if not os.path.isabs(folder):
        raise ConfigError(f"Ray cannot start with its temporary folder `{folder}`; set {variable} to an absolute path")
    socket = os.path.join(folder, _SOCKET.format(pid=os.getpid()))
    try:
        validate_socket_filepath(socket)
    except OSError as error:
        raise ConfigError(
            f"Ray cannot start with its temporary folder `{folder}`: its sockets' paths may have at most 107 bytes, and would "
            f"have {len(socket.encode())}; set {variable} to a shorter path, such as /tmp"
        ) from error
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        if (full := full_disk(ROOM_BYTES, folder)) is not None:
            raise _no_room(full, ROOM_BYTES, "Ray with its logs", variable) from error
        raise StorageError(
            f"Ray cannot start: its temporary folder `{folder}` cannot be written ({error.strerror or error}); set {variable} "
            "to a folder that this user can write"
        ) from error
    if (full := full_disk(ROOM_BYTES, folder)) is not None:
        raise _no_room(full, ROOM_BYTES, "Ray with its logs", variable)
    _make_token()


def check_room_for_checkpoints(config: Config) -> None:
    """Raise StorageError if a checkpoint of the tables does not fit into this machine's temporary folder."""
    remove_stale()  # a killed run may have left a checkpoint there
    need = checkpoint_bytes(config)
    if (full := full_disk(need, temporary_folder())) is not None:
        raise _no_room(full, need, "one checkpoint of the tables", "TMPDIR")


def full_disk(need: int, *folders: str) -> str | None:
    """A description of the first folder whose disk has less free space than `need`; None if all have enough."""
    for folder in folders:
        nearest = next(path for path in (Path(folder), *Path(folder).absolute().parents) if os.path.exists(path))
        usage = shutil.disk_usage(nearest)
        if usage.free < need and usage.total:
            return f"the disk of `{folder}` has {mib(usage.free)} free of {mib(usage.total)}"
    return None


def temporary_folder() -> str:
    """The folder for temporary files. Raises StorageError if none is writable."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StorageError(
            f"there is no writable temporary folder: {error.strerror}; free space in /tmp, or set TMPDIR to a writable folder"
        ) from error


def checkpoint_bytes(config: Config) -> int:
    """Minimum size of a checkpoint on disk: the tables and their optimizer state."""
    optimizer = config.train.sparse_optimizer.type
    return sum(table_bytes(table, optimizer) for table in config.tables.values())


def start_failed(error: Exception) -> ClusterError:
    """The error for a Ray that did not start here although all checks passed."""
    logs = os.path.join(get_default_ray_temp_dir(), "session_latest", "logs")
    lines = " ".join(str(error).split()) or type(error).__name__
    return ClusterError(f"Ray cannot start on this machine: {lines}; check its logs, {logs}, and run `raymtl doctor`")


def mib(size: int) -> str:
    """Bytes in a readable unit."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _no_room(full: str, need: int, what: str, variable: str) -> StorageError:
    return StorageError(
        f"{full}, and {what} takes {mib(need)} there; free space, or set {variable} to a folder on another disk, then rerun the "
        "same command"
    )


def _make_token() -> None:
    """Set a token in the environment if Ray cannot write one to ~/.ray: this Ray ends with the process."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True) and not _home_is_writable():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        AuthenticationTokenLoader.instance().reset_cache()


def _home_is_writable() -> bool:
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return False
