"""What a driver decides about a version before its workers write it, without torch."""

from dataclasses import dataclass, field
from typing import Any

from raymtl.config.root import Config
from raymtl.model_store.manifest import Manifest


@dataclass(frozen=True)
class Draft:
    """The metadata of a version to write."""

    id: str
    config: Config
    data_range: dict[str, list[str]]
    """First and last day of `train`, and of `eval`."""
    parent: str | None = None
    snapshots: dict[str, int] = field(default_factory=dict)
    """Of the tables among its data."""
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    base_rates: dict[str, float] = field(default_factory=dict)


def can_be_delta_of(base: Manifest, config: Config) -> bool:
    """Whether the tables of a configuration can be written as a delta on a version; `check_base` checks a built model."""
    optimizer = config.train.sparse_optimizer
    if base.tables.keys() != config.tables.keys():
        return False
    for name, table in config.tables.items():
        saved = base.tables[name]
        if (saved.dim, saved.id_space, saved.optimizer) != (table.dim, table.id_space, optimizer.of_table(table).type):
            return False
        if table.rows != saved.rows and (table.id_space == "hash" or table.rows < saved.rows):
            return False
    return True
