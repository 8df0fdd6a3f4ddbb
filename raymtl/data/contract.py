"""The columns that a configuration needs from the logs, and the check of a file's schema against them."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raymtl.config.features import (
    BucketFeature,
    CrossFeature,
    DenseFeature,
    IdsFeature,
    SequenceDenseFeature,
    SequenceFeature,
    Tableless,
    VectorFeature,
)
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.data.column_types import (
    Kind,
    fits,
    has_elements,
    id_word,
    is_empty,
    is_id,
    is_label,
    is_list,
    is_number,
    is_text,
    is_time,
    is_weighted,
    leaf_type,
    plain_type,
)

_INT64_DIGITS = 18
IMPRESSION = {b"raymtl": b"impression"}
"""Metadata of the fields of a nested file that have a value per impression (`data/nested.py`)."""
WEIGHTS = ".weights"
"""End of the key of the configuration that names the weights of a feature."""
MISSING, NO_VALUES = "missing", "null"
"""The types that `plain_types` reports for a column that no file has, and for one without any value."""


@dataclass(frozen=True)
class Column:
    """One column that the configuration reads."""

    name: str
    """Name in the parquet files."""
    kind: Kind
    """What it must hold."""
    used_by: str
    """Dotted key of the configuration that uses it."""
    training: bool = True
    """False: needed only for evaluation and `raymtl check` (the group, the timestamp, the truth)."""
    evaluation: bool = True
    """False: needed only for training (the times of early labels)."""

    def is_needed(self, evaluation: bool) -> bool:
        """Whether an evaluation, or a training, cannot do without it."""
        return self.evaluation if evaluation else self.training

    @property
    def feature(self) -> str:
        """The feature that uses it; empty for other uses."""
        section, _, name = self.used_by.partition(".")
        return name.removesuffix(WEIGHTS) if section == "features" else ""


def required_columns(config: Config) -> list[Column]:
    """Every column that the configuration reads, each once per use, in the order of the configuration."""
    data = config.data
    columns: list[Column] = []
    for name, feature in config.features.items():
        if isinstance(feature, CrossFeature):
            continue
        kind: Kind = "number" if isinstance(feature, DenseFeature | BucketFeature) else "id"
        source = feature.column or name
        weights = feature.weights if isinstance(feature, IdsFeature) else None
        if isinstance(feature, IdsFeature | SequenceFeature):
            kind = "map" if weights == source else "ids"
        elif isinstance(feature, SequenceDenseFeature):
            kind = "numbers"
        elif isinstance(feature, VectorFeature):
            kind = "vector"
        columns.append(Column(source, kind, f"features.{name}"))
        if weights is not None and weights != source:
            columns.append(Column(weights, "numbers", f"features.{name}{WEIGHTS}"))
    active = config.active_tasks()
    for name, task in label_tasks(config).items():
        columns.append(Column(task.label_column(name), label_kind(task), f"tasks.{name}.label"))
        if task.observed:
            columns.append(Column(task.observed, "flag", f"tasks.{name}.observed"))
        if task.weight_column and name in active:
            columns.append(Column(task.weight_column, "number", f"tasks.{name}.weight_column"))
        if task.early_labels is not None and name in active:
            columns.append(Column(task.early_labels.time, "time", f"tasks.{name}.early_labels.time", evaluation=False))
        if task.truth and name in active:
            columns.append(Column(task.truth, "number", f"tasks.{name}.truth", training=False))
    if data.scenario:
        columns.append(Column(data.scenario.column, "category", "data.scenario.column"))
    if data.weight:
        columns.append(Column(data.weight, "number", "data.weight"))
    if data.sampling and data.sampling.column:
        columns.append(Column(data.sampling.column, "number", "data.sampling.column"))
    if data.group:
        columns.append(Column(data.group, "id", "data.group", training=bool(config.list_columns())))
    if data.request:
        trains = bool(config.request_features() or config.list_columns())
        columns.append(Column(data.request, "id", "data.request", training=trains))
    if data.timestamp:
        columns.append(Column(data.timestamp, "time", "data.timestamp", training=False))
    return columns


def uses_of(name: str, config: Config) -> set[str]:
    """The keys of all columns that a feature is made of, but those of crosses."""
    feature = config.features[name]
    own = {column.used_by for column in required_columns(config) if column.feature == name}
    return own | ({f"features.{feature.of}"} if isinstance(feature, SequenceDenseFeature) else set())


def label_kind(task: Task) -> Kind:
    """What the label column of a task must hold."""
    return "number" if task.label_codes is None else "label"


def derived_columns(config: Config) -> list[Column]:
    """What stands for a column in the statistics of crosses, and of the weights in maps."""
    crosses = {name: feature.of for name, feature in config.features.items() if isinstance(feature, CrossFeature)}
    maps = [column for column in required_columns(config) if column.kind == "map"]
    return [
        *(Column(" × ".join(parts), "id", f"features.{name}") for name, parts in crosses.items()),
        *(Column(column.name, "numbers", f"{column.used_by}{WEIGHTS}") for column in maps),
    ]


def label_tasks(config: Config) -> dict[str, Task]:
    """The tasks whose label columns are read: the active ones, those that their conditions need, and the one whose negatives were
    sampled.

    A condition does not depend on `tasks_subset`: if labels are multiplied, a condition outside the subset keeps its own parent.
    """
    needed = config.active_tasks()
    if config.data.sampling is not None and (sampled := config.data.sampling.task) is not None:
        needed.setdefault(sampled, config.tasks[sampled])
    for name in reversed(config.tasks):  # parents and conditions precede the tasks that name them
        if name in needed:
            above = config.made_with(needed[name])
            needed |= {other: config.tasks[other] for other in above if other not in needed}
    return {name: needed[name] for name in config.tasks if name in needed}


def schema_faults(schema: pa.Schema, config: Config, columns: Iterable[Column]) -> list[tuple[Column, str]]:
    """The columns that a schema lacks or has with a wrong type, each with a description of the fault."""
    names = schema.names
    types = dict(zip(names, schema.types, strict=True))
    of_users = set(config.request_features())
    faults = []
    for column in columns:
        label = f"column `{column.name}` ({column.used_by})"
        if column.name not in types:
            close = _nearest(column.name, names)
            other = f"`{close}`" if close else f"one of {', '.join(names[:12])}"
            remedy = f"set {_key(column)} to {other}, or write the column"
            if (holder := _holder(schema, column.name)) is not None:
                remedy = f"it is a field of the list `{holder}`: set data.impressions to `{holder}`"
            faults.append((column, f"{label} is missing; {remedy}"))
        elif names.count(column.name) > 1:
            faults.append((column, f"{label} occurs {names.count(column.name)} times; write each column once"))
        elif not fits(types[column.name], column.kind):
            found, expected = types[column.name], _EXPECTED[column.kind]
            remedy = f"{_conversion(found, column, config)}, or set {_key(column)} to another column"
            faults.append((column, f"{label} has type {found}, expected {expected}; {remedy}"))
        elif column.feature in of_users and schema.field(column.name).metadata == IMPRESSION:
            remedy = f"set features.{column.feature}.side to `item`, or write the column outside of the impressions"
            faults.append(
                (column, f"{label} is a value of each impression, but the feature is one of the user; {remedy}")
            )
        elif (size := _fixed_size(config, column, types[column.name])) is not None:
            remedy = f"set {column.used_by}.width to {size}, or write the vectors again"
            faults.append((column, f"{label} holds vectors of {size} numbers, but its width is another; {remedy}"))
        elif (table := _direct_table(config, column)) and (held := _no_row(types[column.name])):
            remedy = f"but tables.{table}.id_space is `direct`; use integers or id_space `hash`"
            faults.append((column, f"{label} holds {held}, {remedy}"))
    return faults


def mixed_problems(files: Iterable[tuple[str, pa.Schema]], columns: Sequence[Column]) -> list[str]:
    """The ID columns that hold integers in one file and strings in another: the ID 7 and the ID "7" are two IDs. (So are a UUID's
    16 bytes and its text.)"""
    ids = [c for c in columns if c.kind in ("id", "ids", "map")]
    first: dict[str, dict[str, str]] = {c.used_by: {} for c in ids}
    seen: set[int] = set()  # equal schemas share one object, see `read_footers`
    for path, schema in files:
        if id(schema) in seen:
            continue
        seen.add(id(schema))
        for column in ids:
            if column.name in schema.names and not is_empty(kind := schema.types[schema.names.index(column.name)]):
                first[column.used_by].setdefault(id_word(kind), path)
    return [
        f"column `{column.name}` ({column.used_by}) holds "
        + " and ".join(f"{word}s in {path}" for word, path in sorted(first[column.used_by].items()))
        + ", which are different IDs; write it with one type in all files"
        for column in ids
        if len(first[column.used_by]) > 1
    ]


def id_words(schemas: Iterable[pa.Schema], columns: Iterable[Column]) -> dict[str, set[str]]:
    """What each use of an ID column holds in some files: `integer`, `string`, `UUID`; nothing where no file has a value."""
    schemas = list(schemas)
    return {
        column.used_by: {
            id_word(kind)
            for schema in schemas
            if column.name in schema.names and not is_empty(kind := schema.types[schema.names.index(column.name)])
        }
        for column in columns
    }


def held_ids(config: Config, schemas: Iterable[pa.Schema]) -> dict[str, frozenset[str]]:
    """What the logs hold of the IDs of each table, in the words of `id_words`; buckets and crosses are integers."""
    words = id_words(schemas, [c for c in required_columns(config) if c.used_by.startswith("features.")])
    held: dict[str, set[str]] = {}
    for name, feature in config.features.items():
        if isinstance(feature, BucketFeature | CrossFeature):
            held.setdefault(config.table_of(name), set()).add("integer")
        elif not isinstance(feature, Tableless):
            held.setdefault(config.table_of(name), set()).update(words[f"features.{name}"])
    return {table: frozenset(found) for table, found in held.items()}


def plain_types(schemas: Collection[pa.Schema], columns: Iterable[Column]) -> dict[str, str]:
    """The type of each column in some files, as a word; types that the contract treats as equal get the same word.

    IDs are `integer` or `string`, other columns `number` or `time` whatever their width, lists `list of …`. If the files differ,
    several are joined, such as `integer and string`.
    """
    kinds: dict[str, set[Kind]] = {}
    for column in columns:
        kinds.setdefault(column.name, set()).add(column.kind)
    types = {}
    for name, uses in kinds.items():
        found = {_plain_type(s.types[s.names.index(name)], uses) for s in schemas if name in s.names}
        types[name] = " and ".join(sorted(found - {NO_VALUES})) or (NO_VALUES if found else MISSING)
    return types


def _plain_type(found: pa.DataType, uses: set[Kind]) -> str:
    if is_empty(found):
        return NO_VALUES
    if has_elements(found):
        return f"list of {_plain_type(found.value_type, uses)}"
    if pa.types.is_map(found):
        return f"map from {_plain_type(found.key_type, {'id'})} to {_plain_type(found.item_type, {'number'})}"
    if pa.types.is_dictionary(found):
        return _plain_type(found.value_type, uses)
    # A column of numbers becomes one of doubles on the day of its first null; only IDs distinguish integers from other numbers.
    if is_text(found) or (is_id(found) and uses & {"id", "ids", "category"}):
        return id_word(found)
    if is_number(found):
        return "number"
    return "time" if is_time(found) else str(found)


def _key(column: Column) -> str:
    """Dotted key of the configuration that sets the column's name."""
    own = column.used_by == f"features.{column.feature}"
    return f"{column.used_by}.column" if own else column.used_by


def _conversion(found: pa.DataType, column: Column, config: Config) -> str:
    """How to write or read a column of a type that does not fit."""
    leaf, kind = leaf_type(found), column.kind
    events = {f"tasks.{name}.label": f"tasks.{name}" for name, task in config.tasks.items() if task.is_event}
    classes = {
        f"tasks.{name}.label": f"tasks.{name}" for name, task in config.tasks.items() if task.classes is not None
    }
    if column.used_by in events and is_label(found):
        task = events[column.used_by]
        return f"set {task}.positive and {task}.negative to the values that count as 1 and as 0"
    if kind == "ids" and is_weighted(found):
        if isinstance(config.features.get(column.feature), SequenceFeature):
            return "write the IDs as a list, the oldest first, since a map has no order"
        return f"set {column.used_by}{WEIGHTS} to `{column.name}` for a map from IDs to weights"
    if kind == "map" and is_list(found):
        return f"set {column.used_by}{WEIGHTS} to the column with the list of weights"
    if column.used_by in classes and is_label(found):
        return f"set {classes[column.used_by]}.classes to the list of the column's values"
    if kind in ("id", "ids", "category") and (pa.types.is_floating(leaf) or pa.types.is_decimal(leaf)):
        return "write the IDs as integers (pandas: dtype Int64, which has nulls)"
    if pa.types.is_map(plain_type(found)) or pa.types.is_struct(leaf):
        return "write the field to use as a column of its own"
    if has_elements(found) and kind == "ids":
        return "write one flat list per row"
    if has_elements(found) and kind == "number":
        return "use the kind `vector`, or write each element as a column of its own"
    if kind in ("numbers", "vector"):
        return "write one list of numbers per row"
    return "write the column with that type"


def _direct_table(config: Config, column: Column) -> str | None:
    feature = config.features.get(column.feature)
    if feature is None or column.kind == "numbers" or isinstance(feature, Tableless | BucketFeature):
        return None
    table = config.table_of(column.feature)
    return table if config.tables[table].id_space == "direct" else None


def _fixed_size(config: Config, column: Column, found: pa.DataType) -> int | None:
    """The size of a column's fixed-size lists, if it is not the width of its vector."""
    feature = config.features.get(column.feature)
    size = found.list_size if pa.types.is_fixed_size_list(found) else None
    return size if isinstance(feature, VectorFeature) and size != feature.width else None


def _holder(schema: pa.Schema, name: str) -> str | None:
    """The column that holds lists of structs with a field of this name."""
    for field in schema:
        element = field.type.value_type if has_elements(field.type) else field.type
        if element is not field.type and pa.types.is_struct(element) and element.get_field_index(name) >= 0:
            return field.name
    return None


def _nearest(name: str, names: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _no_row(kind: pa.DataType) -> str | None:
    """What a column of IDs holds that is no row of a `direct` table."""
    leaf = leaf_type(kind)
    wide = pa.types.is_decimal(leaf) and leaf.precision > _INT64_DIGITS
    return "strings" if is_text(leaf) else f"{leaf.precision}-digit decimals" if wide else None


_EXPECTED: dict[Kind, str] = {
    "id": "an integer or a string",
    "ids": "a list of integers or strings",
    "map": "a map from integers or strings to numbers",
    "number": "a number or a boolean",
    "numbers": "a list of numbers",
    "vector": "a list of numbers",
    "flag": "a boolean or an integer (0: not observed)",
    "category": "a string or an integer",
    "label": "a string, a number or a boolean",
    "time": "a timestamp, a number, or text as 2026-01-31T12:00:00Z",
}
