"""Convert raw log values to the inputs of the tables and the model, as tensor operations of an exported program.

The same rules as in `data/ids/hashing.py`, `data/ids/id_map.py` and `data/blocks.py`. Shapes: N rows, V values of a list, M
IDs of a map.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from raymtl.config.features import (
    BucketFeature,
    CrossFeature,
    DenseFeature,
    IdFeature,
    Scaled,
    SequenceDenseFeature,
    Table,
    Tableless,
    VectorFeature,
    weighted,
)
from raymtl.config.root import Config
from raymtl.data.ids.hashing import id_of
from raymtl.data.ids.id_map import UNKNOWN_ROW, IdMap
from raymtl.embeddings.names import module_name


def mix64(ids: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 IDs; products wrap around, like unsigned numbers."""
    z = ids ^ _shifted(ids, 30)
    z = z * (0xBF58476D1CE4E5B9 - 2**64)
    z = z ^ _shifted(z, 27)
    z = z * (0x94D049BB133111EB - 2**64)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own shift keeps the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def hash_rows(ids: Tensor, rows: int) -> Tensor:
    """Row of every ID in a `hash` table: mix64 as an unsigned number, modulo the rows."""
    z = mix64(ids)
    # 2 · (z without its last bit) + its last bit, since torch has no unsigned remainder
    return (_shifted(z, 1) % rows * 2 + (z & 1)) % rows


def cross(ids: Sequence[Tensor]) -> Tensor:
    """One ID for the combination of several, each [N] int64; see `data/ids/hashing.py`."""
    z = torch.full_like(ids[0], 0x9E3779B97F4A7C15 - 2**64)
    for part in ids:
        z = mix64(z ^ part)
    return z


class MapRows(nn.Module):
    """Row of every ID in a `map` table, by binary search; the unknown row for an unknown ID."""

    def __init__(self, id_map: IdMap):
        super().__init__()
        # One extra entry with the unknown row, so that an empty map needs no special case
        last = torch.iinfo(torch.int64).max
        self.register_buffer("ids", torch.cat((_copied(id_map.ids), torch.tensor([last]))))
        self.register_buffer("rows", torch.cat((_copied(id_map.rows), torch.tensor([UNKNOWN_ROW]))))

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.searchsorted(self.ids, ids).clamp(max=len(self.ids) - 1)
        return torch.where(self.ids[places] == ids, self.rows[places], UNKNOWN_ROW)


def _copied(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


class Rules(nn.Module):
    """Raw features by name -> the same names with rows of tables for IDs, and numbers as the model reads them.

    An ID feature is `<name>` [N] int64 with `<name>.present` [N] bool, a list `<name>` [V] int64 with `<name>.lengths` [N], a
    number (also that of a bucket) `<name>` [N] float32 with NaN for null, a vector `<name>` [N, W] likewise, and so are numbers
    of the steps of a list `<name>` [V], and weights of its IDs `<name>.weights` [V]. Results of buckets and crosses have
    `.present` too.
    """

    def __init__(self, config: Config, names: Sequence[str], maps: Mapping[str, IdMap]):
        super().__init__()
        self._dense = {n: f for n in names if isinstance(f := config.features[n], DenseFeature)}
        self._steps = {n: f for n in names if isinstance(f := config.features[n], SequenceDenseFeature)}
        self._weighted = [n for n in weighted(config.features) if n in names]
        self.tables: dict[str, tuple[str, Table]] = {
            n: (table, config.tables[table])
            for n in names
            if not isinstance(config.features[n], Tableless)
            for table in [config.table_of(n)]
        }
        used = {name for name, table in self.tables.values() if table.id_space == "map"}
        self.maps = nn.ModuleDict({module_name(name): MapRows(maps[name]) for name in sorted(used)})
        self._vectors = [n for n in names if isinstance(config.features[n], VectorFeature)]
        self._buckets = {n: f for n in names if isinstance(f := config.features[n], BucketFeature)}
        for name, bucket in self._buckets.items():
            self.register_buffer(f"edges_{name}", torch.tensor(bucket.edges, dtype=torch.float32), persistent=False)
        self._null_ids = {
            n: id_of(f.null_id)
            for n in names
            if isinstance(f := config.features[n], IdFeature | BucketFeature) and f.null_id is not None
        }
        self._crosses = {n: f.of for n in names if isinstance(f := config.features[n], CrossFeature)}
        others = [f.of for n, f in config.features.items() if isinstance(f, CrossFeature) and n not in names]
        self.handed_on = [n for n in names if any(n in parts for parts in others)]
        """Features whose IDs the other side's crosses need: `<name>.id` and `<name>.present` of the result."""
        self.needed = [n for n in dict.fromkeys(chain(*self._crosses.values())) if n not in names]
        """The features whose `<name>.id` and `<name>.present` this side needs from the other."""
        self._learns_nulls = getattr(config.model.input, "missing", "fill") == "learned"

    def forward(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        made = dict(raw)
        for name, feature in self._dense.items():
            scaled = _scaled(raw[name], feature)
            made[name] = scaled if self._learns_nulls else torch.where(raw[name].isnan(), feature.fill, scaled)
        for name, numbers in self._steps.items():
            made[name] = torch.where(raw[name].isnan(), numbers.fill, _scaled(raw[name], numbers))
        for name in self._weighted:
            weights = raw[f"{name}.weights"]
            made[f"{name}.weights"] = torch.where(weights.isnan(), 0.0, weights)
        for name in self._vectors:
            made[name] = torch.where(raw[name].isnan(), 0.0, raw[name])
        for name in self._buckets:
            # The last bucket for NaN, which is not looked up
            made[name] = torch.bucketize(raw[name], self.get_buffer(f"edges_{name}"), right=True)
            made[f"{name}.present"] = ~raw[name].isnan()
        for name, null_id in self._null_ids.items():
            present = made[f"{name}.present"]
            made[name] = torch.where(present, made[name], null_id)
            made[f"{name}.present"] = torch.ones_like(present)
        ids = {n: made[n] for n in self.tables if n not in self._crosses} | {n: raw[f"{n}.id"] for n in self.needed}
        made |= {f"{n}.id": ids[n] for n in self.handed_on}
        for name, parts in self._crosses.items():
            made[name] = cross([ids[part] for part in parts])
            made[f"{name}.present"] = torch.stack([made[f"{part}.present"] for part in parts]).all(0)
        for name, (table_name, table) in self.tables.items():
            if table.id_space == "hash":
                made[name] = hash_rows(made[name], table.rows)
            elif table.id_space == "map":
                made[name] = self.maps[module_name(table_name)](made[name])
        return made


def _scaled(value: Tensor, feature: Scaled) -> Tensor:
    within = value if feature.clip is None else value.clamp(*feature.clip)
    scaled = within.sign() * within.abs().double().log1p().float() if feature.transform == "log1p" else within
    return (scaled - feature.mean) / feature.std
