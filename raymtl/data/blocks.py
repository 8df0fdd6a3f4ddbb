"""Turn raw parquet columns into a block, whose columns a worker only has to slice.

A block is an Arrow table with one column per use, named `<role>:<name>`:

    id:<feature>     int64, row of the table; null: look up nothing        (kinds id, bucket, cross and bias)
    ids:<feature>    list<int64>, rows of the table                        (kind ids and sequence)
    weights:<feature>  list<float32>, the weight of each of them           (kind ids with weights)
    numbers:<feature>  list<float32>, as long as the IDs of its steps      (kind sequence_dense)
    dense:<feature>  float32, transformed; a null is the feature's `fill`, or NaN if the model learns a substitute
    vector:<feature> float32 lists of one size; a null is zeros
    label:<task>     float32, NaN where not observed
    arrival:<task>   uint8, `early_labels.Arrival` of the label              (training with `tasks.<name>.early_labels`)
    truth:<task>     float32, NaN where unknown                            (evaluation only)
    weight           float32
    weight:<task>    float32, a further factor for one task                (with `tasks.<name>.weight_column`)
    scenario         int32, index into `data.scenario.values`; its length stands for `other`
    list:<within>    int64, the same for rows that losses compare          (with such a loss, by its `within`)
    group            int64, the user's ID; for null that of the request, or a unique ID   (evaluation only)
    request_id       int64, the request's ID; for null a unique ID     (evaluation only, with requests)
    request          dictionary<int32, struct>, the request of the row: the columns of its user side, as above, without those of
                     the row; rows of a request stand together           (with `data.request` or `data.impressions`)
    unit             int32, position of the unit in the schedule (what remains of all epochs)

Everything is checked and converted here, in the reading tasks, column by column; `rules.py` has the rules.
"""

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import (
    BiasFeature,
    DenseFeature,
    IdsFeature,
    SequenceDenseFeature,
    SequenceFeature,
    SingleId,
    VectorFeature,
    columns_of,
)
from raymtl.config.losses import Within
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.contract import label_tasks
from raymtl.data.early_labels import BECAME_1, early_columns, late_labels
from raymtl.data.ids.hashing import hash_rows, hash_strings, mix64, to_int64
from raymtl.data.ids.id_map import MapFile, MapRows
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.data.labels import make_labels
from raymtl.data.list_numbers import number_lists, out_of_step, weight_lists
from raymtl.data.requests import REQUEST, Requests, by_request, feature_changes, request_column
from raymtl.data.row_weights import row_weights
from raymtl.data.rules import Rule, one_array
from raymtl.data.single_ids import Broken, column_ids, single_ids
from raymtl.data.units import Counted
from raymtl.data.user_slice import UserSlice
from raymtl.errors import DataError


@dataclass(frozen=True)
class Place:
    """The origin of a raw table."""

    path: str
    first_row: int
    day: dt.date | None = None
    """The day of its partition; None: it does not matter."""
    kept: np.ndarray | None = None
    """Row of the file of each row, counted from `first_row`, [N] ascending; None: they follow each other."""

    def row(self, number: int) -> int:
        """Row of the file of a row of the raw table."""
        return self.first_row + (number if self.kept is None else int(self.kept[number]))

    def rows(self, count: int) -> np.ndarray:
        """Rows of the file of all `count` rows of the raw table, [count] int64."""
        return self.first_row + (np.arange(count) if self.kept is None else self.kept)

    def of_rows(self, rows: np.ndarray) -> "Place":
        """The origin of only some rows of the raw table."""
        return replace(self, kept=rows if self.kept is None else self.kept[rows])

    def error(self, column: str, used_by: str, row: int, value: Any, rule: Rule) -> DataError:
        """The error of one value; `row` counts in the raw table."""
        return DataError(
            f"{self.path}: column `{column}` ({used_by}), row {self.row(row)}: the {rule.noun} is {value}, "
            f"expected {rule.expected}; {rule.remedy}"
        )


class BlockMaker:
    """Turns raw tables of one configuration into blocks; small, since it is pickled into every reading task."""

    def __init__(
        self,
        config: Config,
        evaluation: bool,
        maps: Mapping[str, MapFile | IdLookup | None] | None = None,
        users: UserSlice | None = None,
    ):
        """`maps` has an entry for each `map` table: its map, or None for an empty one. With `users`, the block holds only their
        rows."""
        self._config = config
        self._users = users
        self._maps = MapRows(maps or {})
        if missing := set(config.map_tables()) - set(maps or {}):
            raise ValueError(f"no map is given for the tables {sorted(missing)}")
        self.evaluation = evaluation
        self._tasks = config.active_tasks()
        self._of_requests = config.request_features()
        self._task_weights = config.task_weights()
        self._early = {} if evaluation else config.early_tasks()
        self._within = config.list_columns()
        self._needs_groups = evaluation or bool(self._within)
        self._of_rows = [name for name in config.features if name not in self._of_requests]
        self._label_tasks = label_tasks(config)
        # A custom input slot has no key `missing`; its nulls get `fill`.
        self._learns_nulls = getattr(config.model.input, "missing", "fill") == "learned"

    def raw_columns(self) -> list[str]:
        """Columns to read from the parquet files, each once."""
        data, evaluation = self._config.data, self.evaluation
        features = self._config.features
        names = [column for name in features for column in columns_of(name, features)] + self.label_columns()
        names += [(task.truth or "") if evaluation else "" for task in self._tasks.values()]
        names += [
            data.scenario.column if data.scenario else "",
            (data.group or "") if self._needs_groups else "",
            self._users.column if self._users else "",
            (data.request or "") if self._of_requests or self._needs_groups else "",
        ]
        return list(dict.fromkeys(n for n in names if n))

    def label_columns(self) -> list[str]:
        """The columns of the labels and of their weights."""
        sampling = self._config.data.sampling
        names = [
            self._config.data.weight or "",
            (sampling.column or "") if sampling else "",
            *self._task_weights.values(),
        ]
        for name, task in self._label_tasks.items():
            names += [task.label_column(name), task.observed or ""]
        names += [early.time for early in self._early.values()]
        return list(dict.fromkeys(n for n in names if n))

    def __call__(self, raw: pa.Table | Requests, place: Place, unit: int, counted: Counted = Counted()) -> pa.Table:
        """The block of a raw table, or of nested rows by their requests; DataError names file, column, row and value of a
        violation of the contract.

        `unit` is the unit's position in the schedule.
        """
        requests = raw if isinstance(raw, Requests) else None
        if requests is not None:
            raw = requests.per_row(self._row_columns())
            place = replace(place, first_row=0, kept=requests.file_row_of_each())
        assert isinstance(raw, pa.Table)
        users = self._users
        if users is not None:
            if counted.held_out_of_own_day:
                assert place.day is not None
                users = users.of_day(place.day)
            kept = np.flatnonzero(users.contains(_integers(raw, users.column, place, "data.group")))
            if len(kept) < len(raw):
                raw, place = raw.take(pa.array(kept)), place.of_rows(kept)
                requests = requests.take(kept) if requests is not None else None
        if self._of_requests:
            if requests is None:
                requests = self._requests(raw, place)
            columns = self.features(raw, place, self._of_rows)
            columns[REQUEST] = self._user_side(requests, place)
        else:
            columns = self.features(raw, place, list(self._config.features))
        labels = self.labels(raw, place)
        for name, task in self._tasks.items():
            label = labels[name] if name in counted else np.full(len(raw), np.nan, np.float32)
            if name in self._early:
                label, arrival = self._early_labels(raw, name, label, name in counted.early, place)
                columns[f"arrival:{name}"] = pa.array(arrival)
            columns[f"label:{name}"] = pa.array(label)
            if task.truth and self.evaluation:
                columns[f"truth:{name}"] = pa.array(rules.floats(one_array(raw, task.truth, "number")))
        data = self._config.data
        if data.has_weights:
            columns["weight"] = pa.array(self._weights(raw, place))
        for name, column in self._task_weights.items():
            columns[f"weight:{name}"] = _weight(raw, column, place, f"tasks.{name}.weight_column")
        if self._needs_groups:
            groups = self._groups(raw, place)
            columns |= {f"list:{within}": _list_ids(groups, within) for within in self._within}
            columns |= groups if self.evaluation else {}
        columns["unit"] = pa.array(np.full(len(raw), unit, np.int32))
        return pa.table(columns)

    def _row_columns(self) -> list[str]:
        """The columns that are needed for each row of a request."""
        features, shared = self._config.features, set(self._of_requests)
        of_users = {c for name in shared for c in columns_of(name, features)}
        of_rows = {c for name in self._of_rows for c in columns_of(name, features)} | set(self.label_columns())
        data = self._config.data
        more = [data.scenario.column if data.scenario else None, data.group, data.request]
        more += [task.truth for task in self._tasks.values()]
        return [name for name in self.raw_columns() if name not in of_users or name in of_rows or name in more]

    def _requests(self, raw: pa.Table, place: Place) -> Requests:
        """The requests of a flat table; DataError names a feature of the user that differs within one."""
        column, features = self._config.data.request, self._config.features
        assert column is not None
        shared = dict.fromkeys(c for name in self._of_requests for c in columns_of(name, features))
        requests = by_request(raw, column, list(shared))
        for name in self._of_requests if len(requests.users) < len(raw) else ():
            changed = feature_changes(raw, name, features)
            changed[requests.first_rows] = False
            if changed.any():
                row = int(changed.argmax())
                source = columns_of(name, features)[0]
                raise DataError(
                    f"{place.path}: column `{source}` (features.{name}), row {place.row(row)}: the value differs from that of "
                    f"the row before, in the same request {raw.column(column)[row].as_py()!r} (`{column}`); set "
                    f"features.{name}.side to `item`, or write one value per request"
                )
        return requests

    def _groups(self, raw: pa.Table, place: Place) -> dict[str, pa.Array]:
        """The columns `group` and `request_id`, as far as the configuration has them.

        A null user is not one huge user but many: each of its requests, or each row, is a group of its own."""
        data, columns = self._config.data, {}
        own, scope = place.rows(len(raw)), place.path  # of nested rows that of their request
        if data.by_request:
            none = pa.nulls(len(raw), pa.int64())
            ids = none if data.request is None else _integers(raw, data.request, place, "data.request")
            columns["request_id"] = _without_nulls(ids, scope, own)
            own, scope = columns["request_id"].to_numpy(), ""  # a request may go on in another file
        if data.group:
            columns["group"] = _without_nulls(_integers(raw, data.group, place, "data.group"), scope, own)
        return columns

    def _user_side(self, requests: Requests, place: Place) -> pa.Array:
        place = place.of_rows(requests.first_rows)
        inside = set(requests.rows.column_names) - set(requests.users.column_names)
        for name in self._of_requests:
            for column in columns_of(name, self._config.features):
                if column in inside:
                    raise DataError(
                        f"{place.path}: column `{column}` (features.{name}) is a value of each impression, but the feature is "
                        f"one of the user; set features.{name}.side to `item`, or write the column outside of the impressions"
                    )
        columns = self.features(requests.users, place, self._of_requests)
        columns.pop("scenario", None)
        return request_column(requests.owner, columns)

    def features(self, raw: pa.Table, place: Place, names: Sequence[str]) -> dict[str, pa.Array]:
        """The columns of some features and of the scenario: everything a model needs to predict."""
        columns: dict[str, pa.Array] = {}
        for name in names:
            feature = self._config.features[name]
            source = columns_of(name, self._config.features)[0]
            if isinstance(feature, DenseFeature):
                column = one_array(raw, source, "number")
                fill = math.nan if self._learns_nulls else feature.fill
                columns[f"dense:{name}"] = _dense(column, feature, fill, place, source, f"features.{name}")
            elif isinstance(feature, VectorFeature):
                lists, broken = one_array(raw, source, "vector"), _raising(place, source, f"features.{name}")
                columns[f"vector:{name}"] = _vectors(lists, name, feature, broken)
            elif isinstance(feature, SingleId | BiasFeature):
                ids = single_ids(raw, name, self._config.features, _raising(place, source, f"features.{name}"))
                columns[f"id:{name}"] = self._rows(ids, name, place, source)
            elif isinstance(feature, SequenceDenseFeature):
                broken = _raising(place, source, f"features.{name}")
                columns[f"numbers:{name}"] = number_lists(raw, name, self._config.features, broken)
            else:
                columns[f"ids:{name}"] = self._lists(one_array(raw, source, "ids"), name, feature, place, source)
                if isinstance(feature, IdsFeature) and feature.weights is not None:
                    broken = _raising(place, feature.weights, f"features.{name}.weights")
                    columns[f"weights:{name}"] = weight_lists(raw, name, feature, broken)
        for found in out_of_step(raw, self._config, names):
            column, row = columns_of(found.name, self._config.features)[0], int(found.wrong.argmax())
            raise place.error(column, f"features.{found.name}", row, found.shown[row].as_py(), found.rule)
        scenario = self._config.data.scenario
        if scenario and scenario.column in raw.column_names:
            column = one_array(raw, scenario.column, "category")
            _check_whole(column, place, scenario.column, "data.scenario.column")
            columns["scenario"] = pa.array(rules.scenario_index(column, scenario.values))
        return columns

    def labels(self, raw: pa.Table, place: Place) -> dict[str, np.ndarray]:
        """The labels of every task that is read, [N] float32 each, NaN where not observed."""
        tasks = self._label_tasks

        def broken(name: str, wrong: np.ndarray, column: pa.Array) -> None:
            row, source = int(wrong.argmax()), tasks[name].label_column(name)
            raise place.error(
                source, f"tasks.{name}.label", row, rules.shown(column, row), rules.label_rule(name, tasks[name])
            )

        return make_labels(raw, tasks, self._config.multiplies_labels(), broken).final

    def _early_labels(
        self, raw: pa.Table, name: str, labels: np.ndarray, is_early: bool, place: Place
    ) -> tuple[np.ndarray, np.ndarray]:
        """`early_columns` of a task from its final labels [N], NaN where they do not count."""
        if place.day is None:
            return labels, np.zeros(len(labels), np.uint8)

        def broken(source: str, wrong: np.ndarray, column: pa.Array) -> None:
            row = int(wrong.argmax())
            raise place.error(source, f"tasks.{name}.early_labels.time", row, rules.shown(column, row), BECAME_1)

        late = late_labels(raw, self._early[name], labels, place.day, broken)
        return early_columns(labels, late, is_early)

    def _weights(self, raw: pa.Table, place: Place) -> np.ndarray:
        """The weights of the rows, [N] float32."""

        def broken(column: str, used_by: str, wrong: np.ndarray, values: pa.Array, rule: Rule) -> None:
            row = int(wrong.argmax())
            raise place.error(column, used_by, row, values[row].as_py(), rule)

        found = row_weights(raw, self._config, broken)
        assert found is not None
        return found

    def _rows(
        self, ids: pa.Array, feature: str, place: Place, column: str, owner: Callable[[int], int] = int
    ) -> pa.Array:
        """Rows of the table; `owner` gives the row of the raw table that holds the n-th ID."""
        name = self._config.table_of(feature)
        table = self._config.tables[name]
        values = rules.int64_values(ids)
        if table.id_space == "hash":
            rows = hash_rows(values, table.rows)
        elif table.id_space == "map":
            rows = self._maps.rows(name, values)
        else:
            rows = np.ascontiguousarray(values)
            wrong = rules.outside(ids, values, table.rows)
            if wrong.any():
                first = int(wrong.argmax())
                rule = rules.direct_rule(name, table.rows)
                raise place.error(column, f"features.{feature}", owner(first), values[first], rule)
        valid = pa.array(ids.is_valid().to_numpy(zero_copy_only=False)).buffers()[1] if ids.null_count else None
        return pa.Array.from_buffers(pa.int64(), len(ids), [valid, pa.py_buffer(rows)])

    def _lists(
        self, lists: pa.Array, name: str, feature: IdsFeature | SequenceFeature, place: Place, column: str
    ) -> pa.Array:
        flat, lengths = rules.list_parts(lists)
        flat, lengths = rules.cut_lists(flat, lengths, feature)
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])

        def owner(index: int) -> int:
            return int(np.searchsorted(offsets, index, side="right")) - 1

        _check_whole(flat, place, column, f"features.{name}", owner)
        return pa.ListArray.from_arrays(pa.array(offsets), self._rows(to_int64(flat), name, place, column, owner))


def _integers(raw: pa.Table, column: str, place: Place, used_by: str) -> pa.Array:
    """A column of IDs as int64."""
    return column_ids(raw, column, _raising(place, column, used_by))


def _raising(place: Place, column: str, used_by: str) -> Broken:
    """Raises the error of the first value that breaks a rule."""

    def broken(wrong: np.ndarray, values: pa.Array, rule: Rule) -> None:
        row = int(wrong.argmax())
        raise place.error(column, used_by, row, values[row].as_py(), rule)

    return broken


def _check_whole(ids: pa.Array, place: Place, column: str, used_by: str, owner: Callable[[int], int] = int) -> None:
    """DataError names the first ID in a column of floats that is no integer; `owner` as in `_rows`."""
    if (wrong := rules.not_whole(ids)) is not None:
        first = int(wrong.argmax())
        raise place.error(column, used_by, owner(first), ids[first].as_py(), rules.whole_rule(ids.type))


def _dense(column: pa.Array, feature: DenseFeature, fill: float, place: Place, name: str, used_by: str) -> pa.Array:
    """Values of a dense feature, with `fill` for null; NaN and infinities in the files are errors."""
    nulls = rules.null_mask(column)
    values = rules.floats(column)
    broken = rules.not_finite(values, nulls)
    if broken.any():
        row = int(broken.argmax())
        raise place.error(name, used_by, row, column[row].as_py(), rules.DENSE)
    values = rules.scaled(values, feature)
    if nulls is not None:
        values[nulls] = fill
    return pa.array(values.astype(np.float32, copy=False))


def _vectors(lists: pa.Array, name: str, feature: VectorFeature, broken: Broken) -> pa.Array:
    """Vectors as lists of a fixed size, zeros for null."""
    values, wrong, lengths = rules.vectors(lists, feature.width)
    if wrong.any():
        broken(wrong, lengths, rules.length_rule(name, feature.width))
    wrong, shown = rules.broken_elements(values)
    if wrong.any():
        broken(wrong, shown, rules.VECTOR)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), feature.width)


def _weight(raw: pa.Table, name: str, place: Place, used_by: str) -> pa.Array:
    column = one_array(raw, name, "number")
    values, wrong = rules.weights(column)
    if wrong.any():
        row = int(wrong.argmax())
        raise place.error(name, used_by, row, column[row].as_py(), rules.WEIGHT)
    return pa.array(values)


def _list_ids(groups: dict[str, pa.Array], within: Within) -> pa.Array:
    """An ID [N] int64 for each list; a request is the rows of one user with one request ID, as in the metrics."""
    if within == "group" or "group" not in groups:
        return groups["group" if within == "group" else "request_id"]
    user, request = (groups[name].to_numpy().view(np.uint64) for name in ("group", "request_id"))
    return pa.array((mix64(user.view(np.int64)).view(np.uint64) + request).view(np.int64))


def _without_nulls(ids: pa.Array, scope: str, own: np.ndarray) -> pa.Array:
    """IDs, [N] int64; instead of a null one that only stands for the number `own` [N] within `scope`."""
    if not ids.null_count:
        return ids
    start = hash_strings(pa.array([scope])).view(np.uint64)
    unique = mix64((start + own.astype(np.uint64)).view(np.int64))
    return pc.if_else(ids.is_valid(), ids, pa.array(unique.view(np.int64)))
