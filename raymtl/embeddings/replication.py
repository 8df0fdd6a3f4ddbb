"""Which tables every worker holds complete, because that costs less than the exchange of their vectors.

Per step and worker, with B rows on each of W workers, a table of R rows and D columns that F features read with L IDs per row:

    replicated   the all-reduce sends twice the gradients of the touched rows, at most 2 · min(R, L·B·W) · D · 4 bytes
    sharded      vectors there and gradients back, 2 · F·B · D · 4 bytes (L instead of F if unpooled), and IDs, 8 · L·B bytes

A replicated table also saves collectives, but only if no table is exchanged at all. See `docs/adr/0024-replicated-tables.md`.
"""

from dataclasses import replace

from raymtl.config.features import Table
from raymtl.config.root import Config
from raymtl.embeddings.sharding import Machine
from raymtl.embeddings.size import table_bytes
from raymtl.embeddings.tables import Lookup
from raymtl.words import count_of, gib

REPLICATED = "replicated"
ASKED = "set by `sharding`"

_MEMORY_BYTES = 512 << 20
"""Most memory of a worker for all tables that are replicated without being asked for."""
_SMALL_ROWS = 16_384
"""Of each table of a single worker, which has nothing to exchange: fbgemm's kernels are faster where a step touches many rows."""
_COLLECTIVE_BYTES = 4 << 20
"""Bytes of an all-reduce that take as long as the collectives of the exchange, which a step then saves."""


def choose_replicated(config: Config, lookup: Lookup, machine: Machine, batch_rows: int) -> dict[str, str]:
    """The replicated tables, with the reason for each.

    Those with `sharding: replicated`. On the CPU also tables without `sharding`, as far as they take together no more than
    512 MiB: each table whose touched rows are fewer bytes than its exchange; and all the others too, if then no table is
    exchanged, and the all-reduce grows by less than its collectives cost. A single worker replicates its tables if all of
    them are small. (On a GPU the gain is not measured.)
    """
    chosen = {name: ASKED for name, table in lookup.tables.items() if table.sharding == REPLICATED}
    if machine.device != "cpu":
        return chosen
    left = _MEMORY_BYTES
    rest: dict[str, float] = {}
    costs = {
        n: _extra_bytes(n, lookup, machine.workers, batch_rows) for n, t in lookup.tables.items() if not t.sharding
    }
    if machine.workers == 1:
        sizes = [table_bytes(lookup.tables[name], config.train.sparse_optimizer.type) for name in costs]
        small = all(lookup.tables[name].rows <= _SMALL_ROWS for name in costs) and sum(sizes) <= left
        alone = len(chosen) + len(costs) == len(lookup.tables)
        return chosen | dict.fromkeys(costs, "one worker, small tables") if alone and small else chosen
    for name, extra in sorted(costs.items(), key=lambda item: item[1]):
        size = table_bytes(lookup.tables[name], config.train.sparse_optimizer.type)
        if extra > 0 or size > left:
            rest[name] = extra
            continue
        left -= size
        touched = count_of(_touched(name, lookup, machine.workers, batch_rows), "row")
        chosen[name] = f"at most {touched} a step, less than its exchange"
    sizes = [table_bytes(lookup.tables[name], config.train.sparse_optimizer.type) for name in rest]
    alone = len(chosen) + len(rest) == len(lookup.tables)
    if rest and alone and sum(sizes) <= left and sum(max(0.0, e) for e in rest.values()) <= _COLLECTIVE_BYTES:
        extra = sum(max(0.0, e) for e in rest.values())
        chosen |= dict.fromkeys(rest, f"with all others, so nothing is exchanged; {gib(int(extra))} more to reduce")
    return {name: chosen[name] for name in lookup.tables if name in chosen}


def replicated_bytes(config: Config, tables: dict[str, Table], names: list[str]) -> int:
    """Bytes of these tables, with the state of their optimizer, on each worker."""
    return sum(table_bytes(tables[name], config.train.sparse_optimizer.type) for name in names)


def beside_replicated(machine: Machine, used: int) -> Machine:
    """The machine as the planner of the other tables sees it: less the memory that replicated tables take."""
    return (
        machine if machine.memory_bytes is None else replace(machine, memory_bytes=max(1, machine.memory_bytes - used))
    )


def _touched(name: str, lookup: Lookup, workers: int, batch_rows: int) -> int:
    return int(min(lookup.tables[name].rows, sum(lookup.lengths[name]) * batch_rows * workers))


def _extra_bytes(name: str, lookup: Lookup, workers: int, batch_rows: int) -> float:
    """Bytes that a worker sends more in a step if the table is replicated."""
    lengths, vector = lookup.lengths[name], 4 * lookup.tables[name].dim
    vectors = sum(lengths) if name in lookup.unpooled else len(lengths)
    exchanged = batch_rows * (2 * vectors * vector + 8 * sum(lengths))
    return 2 * _touched(name, lookup, workers, batch_rows) * vector - exchanged
