"""`raymtl convert --nest`: which logs, which columns, and the configuration for the result."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from raymtl.config.data import as_roots
from raymtl.config.features import BiasFeature, CrossFeature, columns_of
from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.config.source import read_source
from raymtl.data.contract import label_tasks
from raymtl.data.nest.run import TEMPORARY, Logs, Nested, Progress, common_schema, nest
from raymtl.data.nest.tasks import IMPRESSIONS, Keys
from raymtl.data.partitions import Layout
from raymtl.data.source import find_files
from raymtl.data.units import read_footers, with_rows
from raymtl.data.writing import OutputFolder, write_config
from raymtl.errors import ConfigError, DataError
from raymtl.init import words
from raymtl.init.days import find_days
from raymtl.storage.folder import Folder
from raymtl.storage.paths import absolute, join_path
from raymtl.training.cluster import join

CONFIG = "config.yaml"
UNFINISHED = "_unfinished"
"""A file in the output until all is written."""


@dataclass(frozen=True)
class Source:
    """The logs to nest."""

    folder: Folder
    parts: list[Logs]
    schema: pa.Schema
    config: Config | None
    """Its `config.yaml`, if it has one."""
    raw: dict[str, Any]
    """The content of that file."""


@dataclass(frozen=True)
class Result:
    """What `nest_logs` did."""

    path: str
    nested: Nested
    config: str | None
    """The new configuration, if the logs had one."""
    user_side: list[str]
    """The features of that configuration, else the columns, that have a value per request."""


def open_source(path: str) -> Source:
    """Find the logs below a folder, or those that its `config.yaml` names, and read the footers of their files.

    Raises DataError if there are none, or they are nested already.
    """
    folder = Folder.open(absolute(path))
    folder.check_exists("SOURCE", "pass the folder with the logs")
    config, raw = None, {}
    if folder.read(CONFIG) is not None:
        raw = read_source(folder.path_of(CONFIG), None).merged()
        config = config_from_dict(raw, folder.path_of(CONFIG))
        if config.data.impressions is not None:
            raise DataError(
                f"the logs of `{path}` are nested already: its {CONFIG} sets data.impressions; pass flat logs"
            )
    places = _places(folder, config)
    parts = []
    for below, layout in places.items():
        root = folder.child(below) if below else folder
        found = find_files(root, None, layout).or_raise()
        parts.append(Logs(root, layout, read_footers(root.filesystem, found.files), below))
    footers = with_rows(footer for part in parts for footer in part.footers)
    if not footers:
        raise DataError(f"`{path}` has no rows: its parquet files are empty; write the days again")
    return Source(folder, parts, common_schema(footers), config, raw)


def _places(folder: Folder, config: Config | None) -> dict[str, Layout]:
    """The folders of days below a folder, relative to it, each with the names of its days."""
    if config is not None:
        for path in (config.data.path, config.data.eval_path):
            if isinstance(path, list):
                raise DataError(
                    f"{CONFIG} of `{folder.path}` has a list of roots ({', '.join(path)}); nest each of them alone, without that "
                    "file"
                )
        below = {part: _below(folder.path, config.data.roots_of(part)[0]) for part in ("train", "eval")}
        if inside := {name: Layout.of(config, part) for part, name in below.items() if name is not None}:
            return inside
    days = find_days(folder)
    if days is None:
        raise DataError(
            f"`{folder.path}` has no folders of days, ds=YYYY-MM-DD; write the logs by day (`raymtl init` does)"
        )
    paths = (*as_roots(days.path), *as_roots(days.eval_path or ()))
    return {_below(folder.path, path) or "": days.layout for path in paths}


def _below(root: str, path: str) -> str | None:
    """A path relative to a folder that contains it, empty for the folder itself; None: it is elsewhere."""
    if path.rstrip("/") == root.rstrip("/"):
        return ""
    return path.removeprefix(f"{root.rstrip('/')}/").rstrip("/") if path.startswith(f"{root.rstrip('/')}/") else None


def choose_keys(source: Source, request: str | None, user: str | None) -> Keys:
    """The columns that decide about the order: the named ones, those of the configuration, or those with such a name.

    Raises ConfigError if a named column does not exist, or none or several have the name of a request.
    """
    names, config = source.schema.names, source.config
    kinds = {name: source.schema.field(name).type for name in names}
    able = [name for name, kind in kinds.items() if pa.types.is_integer(kind) or _is_text(kind)]
    if request is None:
        request = (config.data.request if config is not None else None) or _request_by_name(source, able)
    for option, column in (("--request", request), ("--user", user)):
        if column is not None and column not in names:
            raise ConfigError(f"{option}: `{source.folder.path}` has no column `{column}`; it has {', '.join(names)}")
        if column is not None and column not in able:
            raise ConfigError(f"{option}: column `{column}` has type {kinds[column]}; name one of integers or strings")
    users = [name for name in able if words.is_user(name) and name != request]
    if user is None and users:
        user = min(users, key=words.user_rank)
    time = config.data.timestamp if config is not None else None
    if time not in names:
        time = next(
            (n for n, kind in kinds.items() if pa.types.is_timestamp(kind) and not words.is_other_time(n)), None
        )
    integers = (n for n in names if pa.types.is_integer(kinds[n]) and set(words.words(n)) <= words.POSITIONS)
    return Keys(request, user, time, next(integers, None))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _request_by_name(source: Source, able: Sequence[str]) -> str:
    found = [name for name in able if words.is_request(name)]
    likely = [name for name in found if words.request_rank(name) == min(map(words.request_rank, found))]
    if len(likely) == 1:
        return likely[0]
    if not likely:
        raise ConfigError(
            f"no column of `{source.folder.path}` has the name of a request; name the column that the rows of a request share "
            f"with --request; it has {', '.join(source.schema.names)}"
        )
    raise ConfigError(
        f"`{source.folder.path}` has several columns that may name the request: {', '.join(likely)}; name one with --request"
    )


def nest_logs(
    source: Source,
    out: str,
    keys: Keys,
    impressions: Sequence[str],
    *,
    address: str | None,
    on_read: Progress,
    on_written: Progress,
    user_given: bool = False,
) -> Result:
    """Write the logs as nested ones to a folder that is empty, or holds what an interrupted call left.

    `user_given`: it is an error if the user varies within a request. Raises DataError and ConfigError.
    """
    for column in impressions:
        if column not in source.schema.names or column == keys.request:
            what = "is the request's" if column == keys.request else f"does not exist in `{source.folder.path}`"
            raise ConfigError(f"--impression: column `{column}` {what}; name a column of an impression")
    inside = Folder.open(absolute(out)).root
    if _below(source.folder.root, inside) is not None:  # before the folder is made
        raise ConfigError(f"OUT, `{out}`, lies in SRC, `{source.folder.path}`; write to a folder outside of it")
    target = OutputFolder.open(out)
    _start(target, source)
    join(address, 0)
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    wanted = {*impressions, *(_of_impressions(source.config) if source.config else [])}
    forced = sorted(wanted & set(source.schema.names))
    try:
        nested = nest(source.parts, keys, forced, target, cpus, on_read, on_written, user_given=user_given)
    finally:
        target.remove_folder(TEMPORARY)
    config, features = None, list(nested.of_requests)
    if source.config is not None:
        raw, features = nested_config(source, target.path, nested)
        config = write_config(raw, target, _header(source))
    target.remove(UNFINISHED)
    return Result(target.path, nested, config, features)


def _start(target: OutputFolder, source: Source) -> None:
    """Mark the output as unfinished; what an interrupted call left is removed. Raises ConfigError if there is anything else."""
    mine = target.read_text(UNFINISHED) is not None
    found = list(target.files())
    if found and not mine:
        raise ConfigError(f"OUT: `{target.path}` is not empty (`{found[0]}`); choose a new folder")
    target.write(UNFINISHED, "raymtl convert --nest has not finished: rerun the same command.\n")
    target.remove_folder(TEMPORARY)
    for name in found:
        if re.search(r"(^|/)_?part-[^/]+\.parquet$", name) or name == CONFIG:
            target.remove(name)


def _of_impressions(config: Config) -> list[str]:
    """Columns that belong to impressions, even if they happen to be the same within every request."""
    found = [
        c for n, f in config.features.items() if isinstance(f, BiasFeature) for c in columns_of(n, config.features)
    ]
    for name, task in label_tasks(config).items():
        found += [task.label_column(name), *filter(None, (task.observed, task.truth))]
    return found


def nested_config(source: Source, out: str, nested: Nested) -> tuple[dict[str, Any], list[str]]:
    """The configuration for the nested logs, and its features of the side `user`."""
    raw, config = source.raw, source.config
    assert config is not None
    data = raw["data"]
    data["path"] = _moved(config.data.roots_of("train")[0], source, out)
    for eval_path in as_roots(config.data.eval_path or ()):
        if _below(source.folder.path, eval_path) is None:
            raise ConfigError(
                f"data.eval_path of the configuration is `{eval_path}`, outside of `{source.folder.path}`, so that only one of "
                "the two would be nested; nest a folder that holds both, or remove data.eval_path"
            )
        data["eval_path"] = _moved(eval_path, source, out)
    data.pop("request", None)
    data["impressions"] = IMPRESSIONS
    if config.daily is not None and config.daily.store:
        raw["daily"]["store"] = config.daily.store.replace(source.folder.path, out, 1)
    before, user_side = set(config.user_features()), []
    for name, feature in config.features.items():
        if isinstance(feature, CrossFeature | BiasFeature):
            continue
        of_request = not set(columns_of(name, config.features)) & set(nested.of_impressions)
        if of_request:
            user_side.append(name)
        if of_request != (name in before):
            raw["features"][name]["side"] = "user" if of_request else "item"
    return raw, user_side


def _moved(path: str, source: Source, out: str) -> str:
    below = _below(source.folder.path, path)
    return join_path(out, below) if below else out


def _header(source: Source) -> str:
    """The comments at the top of the old file, and where the new one is from."""
    text = source.folder.read_text(CONFIG) or ""
    comments = re.match(r"(?:#.*\n)*", text)
    lines = [line.removeprefix("#").removeprefix(" ") for line in (comments[0] if comments else "").splitlines()]
    return "\n".join([*lines, f"Nested by `raymtl convert --nest` from {source.folder.path}."])
