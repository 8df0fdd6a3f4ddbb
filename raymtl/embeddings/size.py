"""Sizes of tables, computed without importing PyTorch."""

from raymtl.config.features import Table

_STATE_FLOATS = {"rowwise_adagrad": None, "adagrad": 1, "adam": 2, "sgd": 0}


def table_bytes(table: Table, optimizer: str) -> int:
    """Bytes of a table's weights and optimizer state, fp32."""
    floats = _STATE_FLOATS[table.optimizer or optimizer] if table.trainable else 0
    state = table.rows if floats is None else floats * table.rows * table.dim
    return 4 * (table.rows * table.dim + state)
