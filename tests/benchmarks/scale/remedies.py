"""What other ways to spread the tables would do, on the same wires: none of them is in raymtl, so each is a what-if."""
# ruff: noqa: E501  (the page's own lines)

from collections.abc import Callable
from dataclasses import replace

from raymtl.embeddings.planning import table_bytes
from raymtl.embeddings.traffic import TableTraffic
from tests.benchmarks.scale.config import HISTORIES, scale_config
from tests.benchmarks.scale.model import NETWORKS, by_rows, half_vectors, single_ids_unpooled
from tests.benchmarks.scale.plan import BATCH, IDS
from tests.benchmarks.scale.tables import IB, Cells, gb, million, ms, plan_usable, power, table

Tables = list[TableTraffic]
GROUP = 64
"""GPUs that hold all tables together, where every group of so many has a copy of its own."""
SYNC_STEPS = 100
REQUEST_ROWS = (0, 1, 10, 50)
"""Rows per request; 0: flat rows."""


def max_bytes(tables: Tables, ids: int, gpus: int) -> float:
    """Bytes of weights and state on the fullest GPU."""
    config = scale_config(ids, gpus, BATCH)
    held = [0.0] * gpus
    for name, place in zip(config.tables, tables, strict=True):
        share = table_bytes(config.tables[name], config.train.sparse_optimizer.type) / len(place.ranks)
        for rank in place.ranks:
            held[rank] += share
    return max(held)


def fullest(tables: Tables, ids: int, gpus: int, cells: Cells) -> str:
    size = max_bytes(tables, ids, gpus)
    return gb(size) + (" (too much)" if size > plan_usable(cells) else "")


def narrow_histories(tables: Tables) -> Tables:
    """The table of the histories half as wide."""
    return [t if t.pooled else replace(t, dim=t.dim // 2) for t in tables]


def variants(gpus: int) -> dict[str, Callable[[Tables], Tables]]:
    """Name and change of the planned tables."""
    return {
        "as planned": lambda t: t,
        "vectors in fp16": half_vectors,
        "`item` 64 wide": narrow_histories,
        "single IDs by row unpooled": single_ids_unpooled,
        "all by row": lambda t: by_rows(t, gpus, True),
        "all by row, single IDs unpooled": lambda t: single_ids_unpooled(by_rows(t, gpus, True)),
        "the same, vectors in fp16": lambda t: half_vectors(single_ids_unpooled(by_rows(t, gpus, True))),
        "pooled ones by row inside a machine": lambda t: by_rows(t, gpus, False),
        "the same, in fp16": lambda t: half_vectors(by_rows(t, gpus, False)),
    }


def remedies(cells: Cells) -> str:
    rows = []
    for gpus, ids in ((64, IDS[1]), (512, IDS[1]), (512, IDS[2])):
        planned = cells.tables(gpus, ids)
        for name, change in variants(gpus).items():
            changed = change(planned)
            step = cells.time(changed, gpus)
            rows.append(
                [
                    power(ids),
                    str(gpus),
                    name,
                    fullest(changed, ids, gpus, cells),
                    ms(step.lookup),
                    ms(step.ids),
                    ms(step.vectors),
                    ms(step.seconds),
                    million(gpus * BATCH / step.seconds),
                    step.bound,
                ]
            )
    return "\n\n".join(["## What would help", TEXT, table(HEAD, rows), _groups(cells), _requests(cells)])


def of_requests(tables: Tables, ids: int, gpus: int, rows: float) -> Tables:
    """The planned tables with requests of so many rows: those of the user are unpooled, and sent once per request."""
    names, lookup = list(scale_config(ids, gpus, BATCH).tables), {}
    for name, planned in zip(names, tables, strict=True):
        shared = {"item": len(HISTORIES), "user": 1, "query": 1}.get(name, 0)
        own = len(planned.lengths) - shared
        lengths = (*planned.lengths[:own], *(length / rows for length in planned.lengths[own:]))
        lookup[name] = replace(planned, lengths=lengths, pooled=planned.pooled and not shared)
    return [lookup[name] for name in names]


def _requests(cells: Cells) -> str:
    """The user's side exchanged once per request."""
    rows = []
    for gpus in (64, 512):
        planned = cells.tables(gpus, IDS[1])
        for size in REQUEST_ROWS:
            tables = of_requests(planned, IDS[1], gpus, size) if size else planned
            step = cells.time(tables, gpus)
            wire = step.traffic
            rows.append(
                [
                    str(gpus),
                    "flat rows" if not size else str(size),
                    f"{(wire.ids.inside() + wire.ids.between()) / 1e6:,.1f}",
                    f"{(wire.vectors.inside() + wire.vectors.between()) / 1e6:,.0f}",
                    ms(step.ids),
                    ms(step.vectors),
                    ms(step.seconds),
                    million(gpus * BATCH / step.seconds),
                    step.bound,
                ]
            )
    head = ["GPUs", "rows per request", "IDs, MB", "vectors, MB each way", "IDs, ms", "vectors, ms", "step, ms"]
    return "\n\n".join(["## Requests", REQUESTS_TEXT, table([*head, "million rows/s", "bound by"], rows)])


def _groups(cells: Cells) -> str:
    """512 GPUs as eight groups, each with all tables, which are made equal again by an all-reduce now and then."""
    rows = []
    for ids in IDS:
        step = cells.time(cells.tables(GROUP, ids), GROUP)
        groups = 512 // GROUP
        sent = 2 * cells.plans[GROUP, ids]["max_bytes"] * (groups - 1) / groups
        sync = sent / NETWORKS[IB]
        seconds = step.seconds + sync / SYNC_STEPS
        rows.append(
            [power(ids), gb(cells.plans[GROUP, ids]["max_bytes"]), ms(step.seconds), f"{sync:.2f}", ms(seconds)]
        )
        rows[-1].append(million(512 * BATCH / seconds))
    head = ["IDs", "GB per GPU", "step in a group, ms", "one sync, s", "step with its share, ms", "million rows/s"]
    return GROUPS_TEXT + "\n\n" + table(head, rows)


HEAD = ["IDs", "GPUs", "tables", "GB, fullest GPU", "lookup, ms", "IDs, ms", "vectors, ms", "step, ms"]
HEAD += ["million rows/s", "bound by"]
TEXT = """400 Gb/s. "Unpooled": a single ID's vector comes from its holder alone, as those of a history do, instead of as a sum to which every GPU adds a
zero. "Inside a machine" is TorchRec's `table_row_wise`: sums are made over NVLink and leave the machine once. fp16 vectors are TorchRec's
quantised collectives. **raymtl has none of these yet**: today a user can fix `sharding: row_wise` for a table ("all by row") and choose its `dim`
("`item` 64 wide", its dense part counted as before)."""
REQUESTS_TEXT = """10⁹ IDs as planned above, 400 Gb/s. With `data.request` ([requests.md](requests.md)) the user, the query and the three histories are of the
request: looked up and sent once for its rows, unpooled. raymtl has that. The dense part counts as before, though it shrinks too. Single
IDs of other tables are still sums over all GPUs: on many GPUs they are what is left ("single IDs unpooled" above)."""
GROUPS_TEXT = f"""And in groups (TorchRec's two-dimensional sharding): 512 GPUs as eight groups of {GROUP}, each with all tables as planned for {GROUP};
every {SYNC_STEPS} steps the groups' tables are averaged, 2·7/8 of the fullest GPU's bytes over its adapter. The feed's exchange is counted over
{GROUP} GPUs here. Averaged tables are not the tables of one group: what it does to a model would have to be measured."""
