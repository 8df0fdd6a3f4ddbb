"""Which tables every worker holds complete, because that costs less than the exchange of their vectors."""

from raymtl.config.root import Config
from raymtl.embeddings.sharding import Machine
from raymtl.embeddings.tables import Lookup

REPLICATED = "replicated"


def choose_replicated(config: Config, lookup: Lookup, machine: Machine, batch_rows: int) -> dict[str, str]:
    """The replicated tables, and why each is."""
    return {n: "its `sharding`" for n, t in lookup.tables.items() if t.sharding == REPLICATED}
