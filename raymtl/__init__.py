"""raymtl: multi-task ranking models on a Ray cluster, from parquet impression logs to a fresh model every day."""

from typing import TYPE_CHECKING, Any

from raymtl import errors

if TYPE_CHECKING:
    from raymtl.api import (
        ModelStore,
        evaluate,
        explain,
        export,
        follow_daily,
        init_config,
        load_config,
        open_store,
        run_daily,
        score,
        train,
        tune,
        tune_score,
    )

__version__ = "0.1.0"

__all__ = [
    "ModelStore",
    "errors",
    "evaluate",
    "explain",
    "export",
    "follow_daily",
    "init_config",
    "load_config",
    "open_store",
    "run_daily",
    "score",
    "train",
    "tune",
    "tune_score",
]


def __getattr__(name: str) -> Any:
    """Import the API when it is first used: the commands' start needs none of it."""
    if name in __all__:
        from raymtl import api

        return getattr(api, name)
    raise AttributeError(f"module `raymtl` has no attribute `{name}`; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
