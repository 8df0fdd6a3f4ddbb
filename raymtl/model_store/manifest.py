"""The manifest of a version: `manifest.json`, written last, with a hash of every other file."""

import datetime as dt
import json
import re
import secrets
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from raymtl.errors import VersionError

FORMAT = 1
"""Number of the format; a reader refuses a greater one."""
NAME = "manifest.json"
DENSE, OPTIMIZER = "dense.safetensors", "optimizer.safetensors"
TABLE_STEPS = "tables.steps"
"""Name of the count of the tables' optimizer steps beside the dense optimizer's state."""
KEY, WEIGHT = "row", "embedding"
"""Columns of a table's files: the row number, and the embedding."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_id(name: object) -> bool:
    """Whether a value can be the name of a version, and so of a folder below the store."""
    return isinstance(name, str) and _ID.fullmatch(name) is not None


def _inside(path: str) -> str:
    # A manifest is untrusted: this user reads and hashes the files that it names
    if not all(_PART.fullmatch(part) for part in path.split("/")):
        raise ValueError(f"`{path}` is not a path below the version's folder")
    return path


def _named(name: str) -> str:
    if not is_id(name):
        raise ValueError(f"`{name}` cannot name a version")
    return name


_Inside = Annotated[str, AfterValidator(_inside)]
_Id = Annotated[str, AfterValidator(_named)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FileEntry(_Part):
    """One file of the version."""

    path: _Inside
    """Relative to the version's folder."""
    bytes: int
    """Size."""
    sha256: str
    """Hex digest of the content."""
    rows: int | None = None
    """Rows of a table's file."""
    first: int | None = None
    """Its lowest row number."""
    last: int | None = None
    """Its highest row number."""


class TableEntry(_Part):
    """One embedding table."""

    rows: int
    """Rows of the table; a delta holds only some of them."""
    dim: int
    """Width D."""
    id_space: str
    """How an ID becomes a row."""
    optimizer: str
    """Kind of the tables' optimizer."""
    state: dict[str, int]
    """Columns of the optimizer's state and their numbers per row, 1 or D."""
    columns: list[str]
    """All columns of its files, in order."""
    files: list[FileEntry]
    """Its files; row numbers ascend within a file, and no row is in two files."""


class Manifest(_Part):
    """A version."""

    format: int = FORMAT
    """Number of the format."""
    id: _Id
    """Name of the version, which is its folder."""
    parent: _Id | None
    """Version that its training started from; null: it started from scratch."""
    base: _Id | None = None
    """For a delta, the version that has all other rows (full or a delta itself); null: this version is full."""
    state_decay: float = 1.0
    """For a delta, the factor on the optimizer state of all rows of its base, applied before its own rows replace theirs."""
    created: dt.datetime
    """When it was written, UTC."""
    code: dict[str, str]
    """Versions of raymtl and of the packages that decide what is computed."""
    config: dict[str, Any]
    """The complete configuration."""
    config_hash: str
    """Hash of the configuration without `name` and `output`."""
    data_range: dict[str, list[str]]
    """First and last day of `train`, and of `eval` where there is one."""
    snapshots: dict[str, int] = {}
    """The version (Delta Lake) or snapshot ID (Iceberg) of the table that `train` and `eval` read; empty for plain files."""
    counts: dict[str, int]
    """`rows` and `steps` of this training, and other counts."""
    metrics: dict[str, Any]
    """As in `result.json`."""
    base_rates: dict[str, float]
    """Mean label of each task at the start of its training; empty if not recorded."""
    tables: dict[_Inside, TableEntry]
    """Every table."""
    files: list[FileEntry]
    """All other files."""

    @property
    def batch_size(self) -> int | None:
        """`train.batch_size` of its training."""
        return self.config.get("train", {}).get("batch_size")

    @property
    def data_end(self) -> dt.date:
        """The last day trained on."""
        return dt.date.fromisoformat(self.data_range["train"][1])

    @property
    def all_files(self) -> list[FileEntry]:
        """The files of the tables and all others."""
        return [*self.files, *(file for table in self.tables.values() for file in table.files)]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.all_files)

    def dump(self) -> bytes:
        """The content of `manifest.json`."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def parse_manifest(data: bytes, where: str, repair: str) -> Manifest:
    """Read a manifest; VersionError, which ends with `repair`, if it is damaged or of a newer format."""
    try:
        raw = json.loads(data)
        number = raw["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise VersionError(f"`{where}` is damaged ({error}); {repair}") from error
    if number != FORMAT:
        raise VersionError(
            f"`{where}` has format {number}, this raymtl reads format {FORMAT}; install the raymtl that wrote it, or a newer one"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(p) for p in first["loc"])
        raise VersionError(f"`{where}` is damaged ({path}: {first['msg']}); {repair}") from error


def new_id(data_end: dt.date) -> str:
    """A name for a version: the last day of its data and six random hex digits."""
    return f"{data_end}-{secrets.token_hex(3)}"


def check_id(name: str) -> str:
    """Return the name; VersionError if it cannot name a folder."""
    if not is_id(name):
        raise VersionError(
            f"`{name}` cannot name a version; use letters, digits, `_`, `.` and `-`, beginning with a letter or digit"
        )
    return name
