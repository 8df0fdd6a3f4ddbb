"""raymtl: multi-task ranking models on a Ray cluster, from parquet impression logs to a fresh model every day."""

__version__ = "0.1.0"
