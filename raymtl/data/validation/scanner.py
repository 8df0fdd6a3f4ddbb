"""One pass over the rows of the logs: every value is counted, and those that break a rule are noted."""

import datetime as dt
from collections.abc import Container
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymtl.config.features import (
    BucketFeature,
    CrossFeature,
    DenseFeature,
    Feature,
    IdsFeature,
    Scaled,
    SequenceDenseFeature,
    SequenceFeature,
    VectorFeature,
    columns_of,
)
from raymtl.config.root import Config
from raymtl.data import rules
from raymtl.data.blocks import Place
from raymtl.data.column_types import is_string
from raymtl.data.contract import WEIGHTS, Column, label_tasks, required_columns, uses_of
from raymtl.data.early_labels import BECAME_1, late_labels
from raymtl.data.fragments import read_requests
from raymtl.data.ids.hashing import to_int64
from raymtl.data.labels import Labels, make_labels
from raymtl.data.list_numbers import broken_numbers, id_weights, out_of_step, step_numbers
from raymtl.data.requests import Requests
from raymtl.data.row_weights import kept_probabilities
from raymtl.data.rules import Rule, one_array
from raymtl.data.single_ids import bucket_ids, single_ids
from raymtl.data.times import microseconds, text_times
from raymtl.data.units import Fragment
from raymtl.data.validation.requests import RequestCounter
from raymtl.data.validation.statistics import ColumnStats, Partial, RuleViolation, merge_found
from raymtl.errors import DataError

_DAY_US = 86_400_000_000


class Scanner:
    """Counts fragments of one configuration's data; small, since it is pickled into every task."""

    def __init__(self, config: Config):
        self._config = config
        self._columns = required_columns(config)
        self._tasks = config.active_tasks()

    def scan(self, root: str, fragment: Fragment, day: str, uses: frozenset[str]) -> Partial:
        """The statistics of a fragment; `uses`: the keys whose columns its file has with a fitting type."""
        partial = Partial()
        columns = [c for c in self._columns if c.used_by in uses]
        names = list(dict.fromkeys(c.name for c in columns))
        try:
            for found, first_row in read_requests(root, fragment, names, self._config.data.block_rows):
                raw = found.per_row(names) if isinstance(found, Requests) else found
                place = Place(fragment.path, first_row)
                if isinstance(found, Requests):
                    place = Place(fragment.path, 0, kept=found.file_row_of_each())
                counter = _TableCounter(self._config, self._tasks, partial, raw, place, day)
                counter.count(columns)
                if isinstance(found, Requests) or self._config.data.request in names:
                    counter.count_requests(found, columns)
        except DataError as error:
            partial.unreadable[fragment.path] = str(error)
        return partial


class _TableCounter:
    """Counts one raw table into a `Partial`."""

    def __init__(
        self,
        config: Config,
        tasks: dict[str, Any],
        partial: Partial,
        raw: pa.Table,
        place: Place,
        day: str,
    ):
        self._config, self._tasks, self._partial = config, tasks, partial
        self._raw, self._place, self._path, self._day = raw, place, place.path, day

    def count(self, columns: list[Column]) -> None:
        partial, rows = self._partial, len(self._raw)
        partial.rows[self._day] = partial.rows.get(self._day, 0) + rows
        by_use = {c.used_by: c for c in columns}
        for column in columns:
            array = one_array(self._raw, column.name, column.kind)
            stats = partial.columns.setdefault(column.used_by, ColumnStats())
            stats.rows += rows
            stats.nulls += array.null_count
            feature = self._config.features.get(column.feature)
            if column.kind == "numbers":
                assert feature is not None
                if by_use.keys() >= uses_of(column.feature, self._config):
                    self._beside(stats, column, feature)
            elif isinstance(feature, IdsFeature | SequenceFeature):
                self._lists(stats, array, column, feature)
                if column.kind == "map":
                    weights = replace(column, kind="numbers", used_by=f"{column.used_by}{WEIGHTS}")
                    stats = partial.columns.setdefault(weights.used_by, ColumnStats())
                    stats.rows += rows
                    stats.nulls += array.null_count
                    self._beside(stats, weights, feature)
            elif column.kind == "id":
                self._ids(stats, array, column, int)
            elif column.kind == "category":
                self._scenarios(self._whole(array, column))
            elif column.kind == "time":
                if column.used_by == "data.timestamp":  # others are read where a label is 1
                    self._times(stats, array, column)
            elif isinstance(feature, DenseFeature):
                self._dense(stats, array, column, feature)
            elif isinstance(feature, VectorFeature):
                self._vector(stats, array, column, feature)
            elif isinstance(feature, BucketFeature):
                self._bucket(stats, array, column, feature)
            elif column.used_by == "data.weight" or column.used_by.endswith(".weight_column"):
                values, wrong = rules.weights(array)
                self._note(column, rules.WEIGHT, wrong, array)
                self._numbers(stats, values, None)
            elif column.used_by == "data.sampling.column":
                self._kept(column, by_use)
                self._numbers(stats, rules.floats(array), rules.null_mask(array))
            elif column.kind != "label":  # labels of numbers, observed flags, truths
                self._numbers(stats, rules.floats(array), rules.null_mask(array))
        self._steps(by_use)
        self._crosses({use.removeprefix("features.") for use in by_use})
        self._labels(by_use)

    def count_requests(self, raw: pa.Table | Requests, columns: list[Column]) -> None:
        """Count the requests of the table, as it was read, and the features of the user that differ within one."""
        by_use = {c.used_by: c for c in columns}
        found, wrong = RequestCounter(self._config, frozenset(by_use)).count(raw)
        self._partial.requests.merge(found)
        for name, rows in wrong.items():
            column = by_use[f"features.{name}"]
            self._note(column, rules.shared_rule(name), rows, one_array(self._raw, column.name, column.kind))

    def _steps(self, by_use: dict[str, Column]) -> None:
        """Note the histories that are not in step with others of the same steps."""
        for found in out_of_step(self._raw, self._config, {use.removeprefix("features.") for use in by_use}):
            self._note(by_use[f"features.{found.name}"], found.rule, found.wrong, found.shown)

    def _kept(self, column: Column, read: Container[str]) -> None:
        """The probabilities with which rows were kept, unless the labels that tell whose are read are missing."""
        task = self._config.data.sampling.task if self._config.data.sampling else None
        if task is None or f"tasks.{task}.label" in read:
            kept_probabilities(
                self._raw, self._config, lambda _, __, wrong, values, rule: self._note(column, rule, wrong, values)
            )

    def _crosses(self, read: Container[str]) -> None:
        features = self._config.features
        for name, feature in features.items():
            if isinstance(feature, CrossFeature) and all(part in read for part in feature.of):
                ids = single_ids(self._raw, name, features, lambda *found: None)
                stats = self._partial.columns.setdefault(f"features.{name}", ColumnStats())
                stats.rows += len(ids)
                stats.nulls += ids.null_count
                stats.add_ids(rules.int64_values(ids.drop_null()))

    def _numbers(self, stats: ColumnStats, values: np.ndarray, nulls: np.ndarray | None) -> np.ndarray:
        """Count the values; returns the finite ones."""
        finite = values[np.isfinite(values)]
        stats.infinite += int(np.isinf(values).sum())
        stats.nan += int(np.isnan(values).sum()) - (0 if nulls is None else int(nulls.sum()))
        stats.numbers.add(finite)
        return finite

    def _dense(self, stats: ColumnStats, array: pa.Array, column: Column, feature: DenseFeature) -> None:
        values, nulls = rules.floats(array), rules.null_mask(array)
        self._note(column, rules.DENSE, rules.not_finite(values, nulls), array)
        self._scaled(stats, self._numbers(stats, values, nulls), feature)

    def _scaled(self, stats: ColumnStats, finite: np.ndarray, feature: Scaled) -> None:
        stats.clipped += int((rules.clipped(finite, feature) != finite).sum())
        stats.scaled.add(rules.transformed(finite, feature))

    def _beside(self, stats: ColumnStats, column: Column, feature: Feature) -> None:
        """Count the weights of IDs, or the numbers of steps."""
        features = self._config.features
        if isinstance(feature, SequenceDenseFeature):
            found = step_numbers(self._raw, column.feature, features)
            (of,) = columns_of(feature.of, features)
        else:
            assert isinstance(feature, IdsFeature)
            found, of = id_weights(self._raw, column.feature, feature), feature.column or column.feature
        if found.misfit.any():
            self._note(column, rules.beside_rule(of), found.misfit, found.shown())
            return
        broken, rule = broken_numbers(found, feature)
        self._note(column, rule, broken, pa.array(found.values), found.owner)
        stats.elements += len(found.values)
        stats.null_elements += int(found.nulls.sum())
        finite = self._numbers(stats, found.values, found.nulls)
        if isinstance(feature, Scaled):
            self._scaled(stats, finite, feature)

    def _vector(self, stats: ColumnStats, array: pa.Array, column: Column, feature: VectorFeature) -> None:
        values, wrong, lengths = rules.vectors(array, feature.width)
        rule = rules.length_rule(column.feature, feature.width)
        self._note(column, rule, wrong, lengths)
        self._note(column, rules.VECTOR, *rules.broken_elements(values))
        if not wrong.any():
            self._numbers(stats, values[array.is_valid().to_numpy(zero_copy_only=False)].reshape(-1), None)

    def _bucket(self, stats: ColumnStats, array: pa.Array, column: Column, feature: BucketFeature) -> None:
        self._numbers(stats, rules.floats(array), rules.null_mask(array))
        ids = bucket_ids(
            array, feature, lambda wrong, values, rule: self._note(column, rule, wrong, values)
        ).drop_null()
        buckets = rules.int64_values(ids)
        stats.add_ids(buckets)
        counts = np.bincount(buckets, minlength=len(feature.edges) + 1)
        stats.buckets = counts if stats.buckets is None else stats.buckets + counts

    def _whole(self, ids: pa.Array, column: Column, owner: Any = int) -> pa.Array:
        """The IDs, without those in a column of floats that are no integers."""
        wrong = rules.not_whole(ids)
        if wrong is None:
            return ids
        self._note(column, rules.whole_rule(ids.type), wrong, ids, owner)
        return pc.if_else(pa.array(wrong), pa.scalar(None, ids.type), ids)

    def _ids(self, stats: ColumnStats, array: pa.Array, column: Column, owner: Any) -> None:
        array = self._whole(array, column, owner)
        if column.feature:
            table_name = self._config.table_of(column.feature)
            table = self._config.tables[table_name]
            if table.id_space == "direct":
                array = to_int64(array)
                wrong = rules.outside(array, rules.int64_values(array), table.rows)
                self._note(column, rules.direct_rule(table_name, table.rows), wrong, array, owner)
        if pa.types.is_dictionary(
            array.type
        ):  # one hash per distinct value; the dictionary may hold values that no row uses
            array = array.dictionary.take(pc.unique(array.indices).drop_null())
        stats.add_ids(rules.int64_values(to_int64(array.drop_null())))

    def _lists(
        self, stats: ColumnStats, array: pa.Array, column: Column, feature: IdsFeature | SequenceFeature
    ) -> None:
        flat, lengths = rules.list_parts(array)
        stats.null_elements += (pc.sum(pc.list_value_length(array)).as_py() or 0) - len(flat)
        stats.elements += len(flat)
        stats.empty += int((lengths == 0).sum())
        stats.longest = max(stats.longest, int(lengths.max(initial=0)))
        if feature.max_length is not None:
            stats.cut += int((lengths > feature.max_length).sum())
        flat, lengths = rules.cut_lists(flat, lengths, feature)  # truncated IDs are never looked up
        ends = np.cumsum(lengths)
        self._ids(stats, flat, column, lambda index: int(np.searchsorted(ends, index, side="right")))

    def _scenarios(self, array: pa.Array) -> None:
        counted = pc.value_counts(array.drop_null())
        values = counted.field("values")
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        for value, count in zip(rules.words(values).to_pylist(), counted.field("counts").to_pylist(), strict=True):
            self._partial.scenarios[value.decode(errors="replace")] += count

    def _times(self, stats: ColumnStats, array: pa.Array, column: Column) -> None:
        if is_string(array.type):
            times = text_times(array)
            wrong = times.is_null().to_numpy(zero_copy_only=False) & array.is_valid().to_numpy(zero_copy_only=False)
            self._note(column, rules.TIME, wrong, array)
            array = times
        moments = microseconds(array.drop_null())
        start = int(np.datetime64(self._day, "us").astype(np.int64))
        stats.off_day += int(((moments < start - _DAY_US) | (moments >= start + 2 * _DAY_US)).sum())
        stats.numbers.add(moments)

    def _labels(self, columns: dict[str, Column]) -> None:
        """Label statistics by task and scenario, broken labels, and the order of the funnel."""
        scenario = self._config.data.scenario
        groups = len(scenario.values) + 1 if scenario else 1
        if scenario and "data.scenario.column" in columns:
            index = rules.scenario_index(one_array(self._raw, scenario.column, "category"), scenario.values)
        else:
            index = np.full(len(self._raw), groups - 1, np.int32)
        labels = self._made_labels(columns)
        self._early_labels(columns, labels)
        counts = np.zeros((len(self._tasks), groups, 6))
        for t, (name, task) in enumerate(self._tasks.items()):
            if name not in labels.final:
                continue
            values = labels.final[name]
            seen = ~np.isnan(values)
            kept, group = values[seen].astype(np.float64), index[seen]
            counts[t, :, 0] = np.bincount(index, minlength=groups)
            counts[t, :, 1] = np.bincount(group, minlength=groups)
            counts[t, :, 2] = np.bincount(group, kept, minlength=groups)
            counts[t, :, 3] = np.bincount(group, kept * kept, minlength=groups)
            weights = {"data.weight": self._config.data.weight, f"tasks.{name}.weight_column": task.weight_column}
            counting = rules.product_of_weights(self._raw, [c for key, c in weights.items() if key in columns]) > 0
            counts[t, :, 4] = np.bincount(index[seen & counting], minlength=groups)
            counts[t, :, 5] = np.bincount(group, kept == 0, minlength=groups)
        by_day = self._partial.labels
        by_day[self._day] = by_day[self._day] + counts if self._day in by_day else counts
        for name, task in self._tasks.items():
            if task.parent in labels.events and name in labels.events:
                self._funnel(name, labels.events[name], labels.events[task.parent])

    def _made_labels(self, columns: dict[str, Column]) -> Labels:
        """The labels of training for which the file has the columns; broken ones are noted."""
        tasks = label_tasks(self._config)
        without = {
            name
            for name, task in tasks.items()
            if f"tasks.{name}.label" not in columns or (task.observed and f"tasks.{name}.observed" not in columns)
        }

        def broken(name: str, wrong: np.ndarray, array: pa.Array) -> None:
            self._note(columns[f"tasks.{name}.label"], rules.label_rule(name, tasks[name]), wrong, array)

        return make_labels(self._raw, tasks, self._config.multiplies_labels(), broken, without)

    def _early_labels(self, columns: dict[str, Column], labels: Labels) -> None:
        """Count the labels of 1 that came late, and note those without the time at which they became 1."""
        for name, early in self._config.early_tasks().items():
            column = columns.get(f"tasks.{name}.early_labels.time")
            if column is not None and name in labels.final:

                def broken(_: str, wrong: np.ndarray, values: pa.Array, column: Column = column) -> None:
                    self._note(column, BECAME_1, wrong, values)

                day = dt.date.fromisoformat(self._day)
                late = late_labels(self._raw, early, labels.final[name], day, broken)
                counts = np.array([(labels.final[name] == 1).sum(), late.sum()], np.int64)
                arrivals = self._partial.arrivals
                arrivals[name] = arrivals[name] + counts if name in arrivals else counts

    def _funnel(self, child: str, values: np.ndarray, parent: np.ndarray) -> None:
        both = ~np.isnan(values) & ~np.isnan(parent)
        positive = both & (values == 1)
        wrong = positive & (parent == 0)
        counts = np.array([both.sum(), positive.sum(), wrong.sum()], np.int64)
        funnel = self._partial.funnel
        funnel[child] = funnel[child] + counts if child in funnel else counts
        if counts[2]:
            found = RuleViolation(int(counts[2]), self._place.row(int(wrong.argmax())), "1")
            merge_found(self._partial.out_of_order.setdefault(child, {}), {self._path: found})

    def _note(self, column: Column, rule: Rule, wrong: np.ndarray, array: pa.Array, owner: Any = int) -> None:
        """Record the values that break a rule; `owner` gives the row of the raw table that holds the n-th of them."""
        if wrong.any():
            first = int(wrong.argmax())
            found = RuleViolation(int(wrong.sum()), self._place.row(owner(first)), str(rules.shown(array, first)))
            merge_found(self._partial.broken.setdefault((column, rule), {}), {self._path: found})
