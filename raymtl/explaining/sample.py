"""A sample of the rows of some days: the columns of the logs, to permute, and what the model reads of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from raymtl.config.data import DayRange
from raymtl.config.features import BiasFeature, IdsFeature, SequenceDenseFeature, SequenceFeature, columns_of
from raymtl.config.losses import TaskLossTerms
from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.hashing import mix64
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.data.units import Counted, Plan, plan_input
from raymtl.errors import DataError
from raymtl.serving.rows import Columns

_SPREAD = 4
"""The sample is drawn out of at least so many times its rows, if there are so many, so that its users have most of theirs."""


@dataclass(frozen=True)
class Sample:
    """N rows of the logs."""

    raw: pa.Table
    """The columns that features read, [N]."""
    columns: Columns
    """What `BlockMaker.features` makes of them, [N]."""
    labels: Tensor
    """[N, T] float32, NaN where not observed."""
    weight: Tensor
    """[N, T] float32."""
    scenario: Tensor | None
    """[N] int64; None without a scenario column."""
    group: Tensor
    """[N] int64, which rows belong together (to a user); without `data.group` every row is a group."""
    of_rows: int
    """Rows of the days."""
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Columns whose lists have an element for each of another column's, by that one: they change together."""

    @property
    def rows(self) -> int:
        return len(self.raw)

    def rows_of(self, columns: Sequence[str], rows: np.ndarray) -> dict[str, pa.ChunkedArray]:
        """Some columns, and those beside them, of the rows with these numbers."""
        names = dict.fromkeys(name for column in columns for name in (column, *self.beside.get(column, ())))
        return {name: self.raw.column(name).take(pa.array(rows)) for name in names}


class SampleReader:
    """Reads samples of logs for one version's configuration."""

    def __init__(self, config: Config, maps: Mapping[str, IdLookup]):
        """`maps` has the ID maps of the tables that predictions need."""
        # Predictions read no position, and nothing here asks for the truth: logs that lack the two will do
        features = {name: f for name, f in config.features.items() if not isinstance(f, BiasFeature)}
        unused = {"truth": None, "losses": TaskLossTerms()}
        tasks = {name: task.model_copy(update=unused) for name, task in config.tasks.items()}
        # Columns of the user are exchanged between rows like any other, so the rows of a request share none
        data = config.data.model_copy(update={"request": None})
        self._config = config.model_copy(update={"features": features, "tasks": tasks, "data": data})
        flat = data.model_copy(update={"impressions": None})
        all_maps = {**dict.fromkeys(config.map_tables()), **maps}
        self.maker = BlockMaker(self._config.model_copy(update={"data": flat}), evaluation=True, maps=all_maps)

    def plan(self, path: str | list[str], days: DayRange, snapshot: int | None = None) -> Plan:
        """The row groups of some days; reads footers only. DataError if something is missing or has a wrong type."""
        changes = {"path": path, "eval": days, "eval_path": None, "eval_snapshot": None, "snapshot": snapshot}
        data = self._config.data.model_copy(update={**changes, "unit_rows": 1})
        return plan_input(self._config.model_copy(update={"data": data}), "eval")

    def read(self, plan: Plan, rows: int, seed: int, tasks: Sequence[str] | None = None) -> Sample:
        """About `rows` rows of randomly chosen row groups, complete users among them; with `tasks` only their labels.

        The same seed gives the same rows.
        """
        units, there = [], 0
        for number in plan.order(seed, 0):
            if there >= _SPREAD * rows:
                break
            units.append(plan.units[number])
            there += units[-1].rows
        counted = Counted(None if tasks is None else tuple(tasks))
        raws, blocks = [], []
        random = np.random.default_rng([seed, 1])
        for fragment in (fragment for unit in units for fragment in unit.fragments):
            for raw, row in read_fragment(plan.root, fragment, self.maker.raw_columns(), self._config.data.block_rows):
                block = self.maker(raw, Place(fragment.path, row), 0, counted)
                kept = pa.array(_kept(block, rows / there, seed, random))
                raws.append(raw.take(kept))
                blocks.append(block.take(kept))
        return self._sample(_joined(raws), pa.concat_tables(blocks).combine_chunks(), plan.rows)

    def _sample(self, raw: pa.Table, block: pa.Table, of_rows: int) -> Sample:
        if not len(block):
            raise DataError("the sample has no rows; choose more days, or more rows with --rows")
        of_features = [n for n in block.column_names if n == "scenario" or n.partition(":")[0] in _ROLES]
        labels = [block.column(f"label:{name}").to_numpy() for name in self._config.active_tasks()]
        rows = len(block)
        sources, beside = source_columns(self._config), columns_beside(self._config)
        weight = np.ones((rows, len(labels)), np.float32)
        for t, name in enumerate(self._config.active_tasks()):
            for column in {"weight", f"weight:{name}"} & {*block.column_names}:
                weight[:, t] *= block.column(column).to_numpy()
        group = block.column("group").to_numpy() if "group" in block.column_names else np.arange(rows)
        scenario = block.column("scenario").to_numpy().astype(np.int64) if "scenario" in block.column_names else None
        return Sample(
            raw.select([*sources, *chain(*beside.values())]),
            {name: block.column(name).chunk(0) for name in of_features},
            torch.from_numpy(np.stack(labels, 1)),
            torch.from_numpy(weight),
            None if scenario is None else torch.from_numpy(scenario),
            torch.from_numpy(np.array(group)),
            of_rows,
            beside,
        )

    def with_columns(self, sample: Sample, values: Mapping[str, pa.ChunkedArray]) -> Columns:
        """What the model reads if some columns of the logs have these values, [N] each, and all others their own."""
        config = self._config
        read_by = {name: columns_of(name, config.features) for name in config.features}
        touched = [name for name, columns in read_by.items() if not values.keys().isdisjoint(columns)]
        scenario = config.data.scenario.column if config.data.scenario else None
        needed = [column for name in touched for column in read_by[name]] + ([scenario] if scenario else [])
        raw = pa.table({c: values.get(c, sample.raw.column(c)) for c in dict.fromkeys(needed)})
        return sample.columns | self.maker.features(raw, Place("the sample", 0), touched)


_ROLES = ("id", "ids", "weights", "numbers", "dense", "vector")


def source_columns(config: Config) -> dict[str, list[str]]:
    """The columns of the logs that predictions read, each with the features that are made of it and of those beside it."""
    leader = {column: first for first, others in columns_beside(config).items() for column in others}
    found: dict[str, list[str]] = {}
    for name, feature in config.features.items():
        if not isinstance(feature, BiasFeature):
            for column in dict.fromkeys(leader.get(c, c) for c in columns_of(name, config.features)):
                found.setdefault(column, []).append(name)
    if config.data.scenario:
        found.setdefault(config.data.scenario.column, [])
    return found


def columns_beside(config: Config) -> dict[str, list[str]]:
    """The columns of lists that have an element for each of another column's, by that one, which holds IDs: weights of IDs,
    numbers of steps, and other histories of the same steps."""
    features = config.features
    lists = [name for name, f in features.items() if isinstance(f, IdsFeature | SequenceDenseFeature)]
    same = [{columns_of(name, features)[0] for name in names} for names in config.same_steps()]
    groups: list[set[str]] = []
    for columns in (*({*columns_of(name, features)} for name in lists), *same):
        if len(columns) > 1:
            touched = [group for group in groups if group & columns]
            groups = [group for group in groups if group not in touched] + [columns.union(*touched)]
    order = list(dict.fromkeys(c for name in features for c in columns_of(name, features)))
    of_ids = {f.column or name for name, f in features.items() if isinstance(f, IdsFeature | SequenceFeature)}
    ranked = [sorted(group, key=lambda column: (column not in of_ids, order.index(column))) for group in groups]
    return {first: others for first, *others in ranked}


def _kept(block: pa.Table, share: float, seed: int, random: np.random.Generator) -> np.ndarray:
    """The rows to keep, ascending: a share of the users, or of the rows if there are none."""
    if share >= 1:
        return np.arange(len(block))
    if "group" not in block.column_names:
        return np.flatnonzero(random.random(len(block)) < share)
    salt = mix64(np.array([seed], np.int64))
    hashes = mix64((block.column("group").to_numpy().view(np.uint64) ^ salt).view(np.int64))
    return np.flatnonzero(hashes < np.uint64(share * 2.0**64))


def _joined(raws: list[pa.Table]) -> pa.Table:
    """Tables of files whose columns may have different types of one kind, one below the other."""
    columns = {}
    for name in raws[0].column_names:
        chunks = [raw.column(name) for raw in raws]
        if len({chunk.type for chunk in chunks}) > 1:
            chunks = _alike(chunks)
        columns[name] = pa.chunked_array([chunk for column in chunks for chunk in column.chunks], chunks[0].type)
    return pa.table(columns)


def _alike(chunks: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Columns of several types in one: without dictionaries, and integers where floats hold only these."""
    plain = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in chunks]
    if any(pa.types.is_integer(c.type) for c in plain):
        plain = [_as_integers(c) if pa.types.is_floating(c.type) else c for c in plain]
    tables = [pa.table({"column": c}) for c in plain]
    kind = pa.unify_schemas([table.schema for table in tables], promote_options="permissive").field(0).type
    return [c.cast(kind) for c in plain]


def _as_integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Integers that pandas turned into floats, as integers; other numbers as they are."""
    try:
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column).cast(pa.int64())
    except pa.ArrowInvalid:
        return column
