"""Storage that fails when it is told to: an fsspec file system `faulty://` over local folders.

It behaves like object storage: an object appears when its upload is closed (also one whose upload failed half-way, as with
fsspec's own), and `pipe_file(mode="create")` refuses a second one. What fails is written in a control folder, so that several
processes share the faults, their counts and the log of calls:

    faults = Faults(tmp_path / "faults")          # in this process: monkeypatch.setenv(*faults.variable), then register()
    faults.add("open", "*/manifest.json", "ConnectionResetError", times=2)
    store = Store.open(f"faulty://{tmp_path}/store")
    subprocess.run([...], env=os.environ | faults.environment())     # in others, Ray's workers as well
"""

import builtins
import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

CONTROL = "RAYMTL_FAULTS"
PROTOCOL = "faulty"


@dataclass
class Fault:
    """Which calls fail, and how."""

    operation: str = "*"
    """`info`, `list`, `mkdir`, `remove`, `move`, `open`, `read`, `create`, `put`, `open-new`, `write` or `close`; `*` for any."""
    path: str = "*"
    """As in a shell, over the whole path."""
    error: str = "EIO"
    """Name of an error number or of an exception, or what an OSError without a number says; `SIGKILL` kills the process."""
    skip: int = 0
    """So many of these calls go well first."""
    times: int | None = 1
    """So many fail then; None: all."""
    every: int = 1
    """Of those, each n-th alone."""
    after: bool = False
    """The call takes effect, and the answer is lost."""
    slow_s: float = 0.0
    """The call takes so long; with an empty `error` it goes well then."""
    seen: int = 0
    """Calls that it was about so far."""

    def hits(self, operation: str, path: str) -> bool:
        """Whether it is about this call and the call fails; counts it."""
        if not (fnmatch(operation, self.operation) and fnmatch(path, self.path)):
            return False
        place = self.seen - self.skip
        self.seen += 1
        return place >= 0 and place % self.every == 0 and (self.times is None or place // self.every < self.times)


class Faults:
    """The faults of a control folder and the log of calls there."""

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def variable(self) -> tuple[str, str]:
        """The environment variable that names the folder, and its value."""
        return CONTROL, str(self._folder)

    def environment(self) -> dict[str, str]:
        """What another process needs in its environment to open `faulty://` by URL."""
        info = self._folder / "site" / "faulty-0.dist-info"  # fsspec looks for such entries when it is imported
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 0\n")
        (info / "entry_points.txt").write_text(f"[fsspec.specs]\n{PROTOCOL} = faulty_storage:FaultyFileSystem\n")
        folders = [str(info.parent), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {CONTROL: str(self._folder), "PYTHONPATH": os.pathsep.join(folders)}

    def add(self, operation: str = "*", path: str = "*", error: str = "EIO", **more: Any) -> None:
        """Let calls fail from now on; see Fault."""
        with self._state() as faults:
            faults.append(Fault(operation, path, error, **more))

    def clear(self) -> None:
        """No more faults, and an empty log."""
        with self._state() as faults:
            faults.clear()
            (self._folder / "calls").unlink(missing_ok=True)

    def calls(self, operation: str = "*", path: str = "*") -> list[tuple[str, str, str]]:
        """The calls so far: operation, path, and the error if there was one."""
        log = self._folder / "calls"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [(o, p, e) for o, p, e in lines if fnmatch(o, operation) and fnmatch(p, path)]

    def meet(self, operation: str, path: str) -> Fault | None:
        """Log a call; the fault that it meets, if any."""
        with self._state() as faults:
            met = [fault for fault in faults if fault.hits(operation, path)]
            with (self._folder / "calls").open("a") as log:
                log.write(json.dumps([operation, path, met[0].error if met else ""]) + "\n")
        return met[0] if met else None

    @contextlib.contextmanager
    def _state(self) -> Iterator[list[Fault]]:
        path = self._folder / "faults.json"
        path.touch()
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = file.read()
            faults = [Fault(**fault) for fault in json.loads(before or "[]")]
            yield faults
            now = json.dumps([asdict(fault) for fault in faults])
            if now != before.rstrip():
                file.seek(0)
                file.write(now.ljust(len(before)))  # truncating and rewriting a file is slow on some disks


class FaultyFileSystem(LocalFileSystem):
    """The file system; without a control folder nothing fails."""

    protocol = (PROTOCOL,)
    local_file = False
    cachable = False

    def __init__(self, **options: Any):
        super().__init__(**options)
        control = os.environ.get(CONTROL)
        self._faults = Faults(control) if control else None

    @contextlib.contextmanager
    def call(self, operation: str, path: Any) -> Iterator[None]:
        """One call as the user of the storage sees it."""
        fault = self._faults.meet(operation, self._strip_protocol(path)) if self._faults else None
        if fault is None:
            yield
            return
        time.sleep(fault.slow_s)
        if not fault.after:
            fail(fault.error)
        yield
        fail(fault.error)

    def info(self, path: Any, **options: Any) -> dict[str, Any]:
        with self.call("info", path):
            return LocalFileSystem().info(self._strip_protocol(path))

    # As fsspec's own file systems do: any error is a no
    isfile, isdir = AbstractFileSystem.isfile, AbstractFileSystem.isdir
    exists, find = AbstractFileSystem.exists, AbstractFileSystem.find

    def ls(self, path: str, detail: bool = False, **options: Any) -> list[Any]:
        with self.call("list", path):
            return LocalFileSystem().ls(self._strip_protocol(path), detail)

    def mkdir(self, path: str, create_parents: bool = True, **options: Any) -> None:
        with self.call("mkdir", path):
            os.makedirs(self._strip_protocol(path), exist_ok=True)

    def rm_file(self, path: str) -> None:
        with self.call("remove", path):
            os.remove(self._strip_protocol(path))

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        with self.call("remove", path):
            LocalFileSystem().rm(self._strip_protocol(path), recursive)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        with self.call("move", path2):
            os.replace(self._strip_protocol(path1), self._strip_protocol(path2))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        with self.call("create" if mode == "create" else "put", path):
            upload = self._upload()
            upload.write_bytes(value)
            if mode == "create":
                try:
                    os.link(upload, self._strip_protocol(path))
                finally:
                    upload.unlink()
            else:
                os.replace(upload, self._strip_protocol(path))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        path = self._strip_protocol(path)
        if "r" in mode:
            with self.call("open", path):
                return _Reader(self, path, Path(path).open("rb"))
        with self.call("open-new", path):
            return _Writer(self, path, self._upload())

    def _upload(self) -> Path:
        """A name for what is not an object yet."""
        folder = self._faults._folder if self._faults else Path("/tmp")
        return folder / f"upload-{uuid.uuid4().hex}"


class _File:
    """An open file that meets the faults; whatever else is asked of it, the file itself answers."""

    def __init__(self, storage: FaultyFileSystem, path: str, file: Any):
        self._storage, self._path, self._file = storage, path, file

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Reader(_File):
    """A file being read."""

    def read(self, size: int = -1) -> bytes:
        with self._storage.call("read", self._path):
            return self._file.read(size)


class _Writer(_File):
    """A file being written; it gets its name when it is closed."""

    def __init__(self, storage: FaultyFileSystem, path: str, upload: Path):
        super().__init__(storage, path, upload.open("xb"))
        self._upload = upload

    def write(self, data: Any) -> int:
        with self._storage.call("write", self._path):
            return self._file.write(data)

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.close()  # first: as with fsspec's own, a second close says that all is well
        with self._storage.call("close", self._path):
            os.replace(self._upload, self._path)


def fail(error: str) -> None:
    """Raise the error of that name."""
    if error == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if error in errno.__dict__:
        number = errno.__dict__[error]
        raise OSError(number, os.strerror(number))
    kind = getattr(builtins, error, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        raise kind(f"{error} by a test")
    if error:
        raise OSError(error)


def register() -> None:
    """Let this process open `faulty://`."""
    sys.modules.setdefault("faulty", sys.modules[__name__])
    fsspec.register_implementation(PROTOCOL, FaultyFileSystem, clobber=True)
