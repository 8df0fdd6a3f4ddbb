"""Names of the tables inside the model's modules, and so in checkpoints.

Modules hold their children as attributes: a table called `items` would replace a method of `nn.ModuleDict`. The prefix
keeps every name of a table apart from those of methods.
"""

PREFIX = "t_"


def module_name(table: str) -> str:
    """Name of a table where it is a module, or TorchRec makes it one."""
    return PREFIX + table


def weight_key(table: str, *, unpooled: bool) -> str:
    """Name of a table's weights in the state of a model."""
    return f"{'unpooled.embeddings' if unpooled else 'pooled.embedding_bags'}.{module_name(table)}.weight"


def table_of(key: str) -> str | None:
    """The table whose weights have this name in the state of a model; None: it is another weight."""
    parts = key.split(".")
    is_table = len(parts) >= 3 and parts[-1] == "weight" and parts[-3] in ("embedding_bags", "embeddings")
    return table_name(parts[-2]) if is_table else None


def table_name(module: str) -> str:
    """The table whose module has this name."""
    return module.removeprefix(PREFIX)
