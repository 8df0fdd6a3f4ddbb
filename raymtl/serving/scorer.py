"""A scoring process: it reads a unit, predicts, and writes its file atomically; a thread reads while the model computes."""

import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from raymtl.config.root import Config
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.fragments import read_fragment
from raymtl.data.ids.id_map_lookup import IdLookup
from raymtl.data.rules import one_array
from raymtl.data.writing import OutputFolder
from raymtl.errors import DataError
from raymtl.serving.model import Raw, ServedModel, feature_sides, load_ranker
from raymtl.serving.plan import Output, ScorePlan, served_columns
from raymtl.serving.rows import Rows, new_users, tensors
from raymtl.serving.tables import FloatTable
from raymtl.serving.top import BestRows, Top, day_of, parts_of
from raymtl.storage.retry import to_user_error

PREDICTION, SCORE = "pred_", "score_"
"""Prefixes of the columns of predictions and of scores."""
_AHEAD = 2
"""Prefetched blocks."""
_LEAST_SHARING = 2.0
"""Rows per user from which the split model is faster (docs/serving.md)."""


@dataclass(frozen=True)
class Assets:
    """The weights of a version, in Ray's object store: one copy per node, which its processes map."""

    version: str
    dense: ray.ObjectRef
    """Dense weights by name."""
    tables: dict[str, ray.ObjectRef]
    """[R, D] float32 of every table."""
    maps: dict[str, ray.ObjectRef]
    """The words of the `IdLookup` of every `map` table."""


class Predictor:
    """A model with its tables: rows in, predictions out."""

    def __init__(self, config: Config, model: ServedModel, batch_rows: int, device: torch.device):
        self._model, self._batch_rows, self._device = model.to(device), batch_rows, device
        self._sides = {side: {n: config.features[n] for n in names} for side, names in model.sides.items()}

    def predict(self, rows: Rows) -> tuple[np.ndarray, int]:
        """Predictions and scores [N, P + S] float32, and the number of computed users."""
        found, users = [], 0
        with torch.inference_mode():
            for start in range(0, len(rows.index), self._batch_rows):
                predicted, count = self._batch(rows, slice(start, start + self._batch_rows))
                found.append(predicted.cpu().numpy())
                users += count
        return np.concatenate(found), users

    def _batch(self, rows: Rows, chunk: slice) -> tuple[torch.Tensor, int]:
        index = rows.index[chunk]
        first, count = int(index[0]), int(index[-1] - index[0]) + 1
        index = index - first
        users = {name: column.slice(first, count) for name, column in rows.users.items()}
        items = {name: column.slice(chunk.start, len(index)) for name, column in rows.items.items()}
        of_items = tensors(items, self._sides["item"])
        if self._model.split is not None and len(index) >= _LEAST_SHARING * count:
            state = self._model.user(self._on_device(tensors(users, self._sides["user"])))
            places = torch.from_numpy(index).to(self._device)
            return self._model.item(state, places, self._on_device(of_items)), count
        if count < len(index):
            users = {name: column.take(pa.array(index)) for name, column in users.items()}
        return self._model.predict(self._on_device(tensors(users, self._sides["user"]) | of_items)), len(index)

    def _on_device(self, raw: Raw) -> Raw:
        return raw if self._device.type == "cpu" else {n: value.to(self._device) for n, value in raw.items()}


def columns_of(model: ServedModel) -> list[str]:
    """The columns that a model gives."""
    return [*(PREDICTION + name for name in model.outputs), *(SCORE + name for name in model.scores)]


class Scorer:
    """Scores units one by one; an actor of Ray Data's pool."""

    def __init__(
        self,
        config: Config,
        plan: ScorePlan,
        out: OutputFolder,
        assets: Assets,
        batch_rows: int,
        threads: int,
        gpu: bool,
        top: Top | None = None,
    ):
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        torch.set_num_threads(threads)
        tables = {n: FloatTable(torch.from_numpy(ray.get(ref))) for n, ref in assets.tables.items()}
        model = ServedModel(config, load_ranker(config, ray.get(assets.dense), assets.version), tables)
        self._predictor = Predictor(config, model, batch_rows, torch.device("cuda" if gpu else "cpu"))
        self._columns = columns_of(model)
        lookups = {n: IdLookup(ray.get(ref)) for n, ref in assets.maps.items()}
        self._reader = UnitReader(config, plan, lookups)
        self._plan, self._folder, self._top = plan, out, top

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the unit in the single row of `batch`; returns its summary."""
        output = self._plan.outputs[batch.column("unit")[0].as_py()]
        return pa.table({name: [value] for name, value in self.score(output).items()})

    def score(self, output: Output) -> dict[str, Any]:
        """Read, predict and write one unit; returns its counts and times."""
        began, cpu_began = time.monotonic(), time.process_time()
        predicting = 0.0
        users = 0
        fields = [pa.field(name, pa.float32()) for name in self._columns]
        schema = pa.schema([*self._plan.keys, *fields])
        top, scored = self._top, 0
        best = None if top is None else BestRows(top, schema)
        with _writing(self._folder, output.name):
            file = self._folder.open_parquet(output.name, schema, plain=[field.name for field in fields])
            for rows in ahead(self._reader.read(output)):
                start = time.monotonic()
                predicted, count = self._predictor.predict(rows)
                predicting += time.monotonic() - start
                users += count
                columns = [*rows.keys.columns, *(pa.array(column) for column in predicted.T.copy())]
                table = pa.table(columns, schema=schema)
                scored += table.num_rows
                if best is None:
                    file.write(table)
                else:
                    best.add(table)
            if best is not None and top is not None:
                for part in best.parts(parts_of(self._plan, top)[day_of(output)]):
                    file.write(part)
            file.close()
        if scored != output.rows:
            raise AssertionError(f"{output.name}: {scored} rows scored of {output.rows}")
        return {
            "file": output.name,
            "rows": scored,
            "users": users,
            "seconds": time.monotonic() - began,
            "predicting_seconds": predicting,
            "cpu_seconds": time.process_time() - cpu_began,
        }


class UnitReader:
    """Reads the rows of a unit: keys and features, with user-side features once per run of rows that share them."""

    def __init__(self, config: Config, plan: ScorePlan, maps: Mapping[str, IdLookup]):
        others = dict.fromkeys(set(config.map_tables()) - set(maps))  # tables that only bias features read
        self._maker = BlockMaker(config, evaluation=True, maps={**others, **maps})
        self._sides = feature_sides(config)
        self._columns = list(dict.fromkeys([*served_columns(config), *plan.keys.names]))
        self._config, self._plan = config, plan

    def read(self, output: Output) -> Iterator[Rows]:
        """Yield the rows in chunks, in order."""
        for fragment in output.unit.fragments:
            for raw, first_row in read_fragment(self._plan.root, fragment, self._columns, self._config.data.block_rows):
                new = new_users(raw, self._config, self._sides["user"])
                kept = np.flatnonzero(new)
                users = raw.take(pa.array(kept)) if len(kept) < len(raw) else raw
                place = Place(fragment.path, first_row)
                items = self._maker.features(raw, place, self._sides["item"])
                items.pop("scenario", None)
                yield Rows(
                    self._keys(raw, fragment.path),
                    self._maker.features(users, replace(place, kept=kept), self._sides["user"]),
                    np.cumsum(new) - 1,
                    items,
                )

    def _keys(self, raw: pa.Table, path: str) -> pa.Table:
        columns = []
        for field in self._plan.keys:
            column = raw.column(field.name)
            if pa.types.is_integer(field.type):  # a file may hold the IDs as floats, with NaN for null
                column = one_array(raw, field.name, "id")
            try:
                columns.append(column.cast(field.type))
            except pa.ArrowException as error:
                raise DataError(
                    f"{path}: the key column `{field.name}` has type {column.type}, which cannot be cast to {field.type}, the "
                    f"type in the first file ({str(error).splitlines()[0]}); write it with one type in all files"
                ) from error
        return pa.table(columns, schema=self._plan.keys)


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items, prefetched by a thread; an error of the thread is raised here."""
    waiting: queue.Queue[Any] = queue.Queue(_AHEAD)
    stopped = threading.Event()
    end = object()
    failed: list[BaseException] = []

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            failed.append(error)
        put(end)

    thread = threading.Thread(target=run, name="reader", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not end:
            yield item
        if failed:
            raise failed[0]
    finally:
        stopped.set()
        thread.join()


@contextlib.contextmanager
def _writing(folder: OutputFolder, name: str) -> Iterator[None]:
    folder.make(name.rpartition("/")[0])
    try:
        yield
    except OSError as error:
        raise to_user_error(f"write `{name}` in `{folder.path}`", error) from error
