"""Everything that can be said of a search before its data is read, in the time that a person waits for.

Imports neither Ray nor TorchRec, which take longer than the checks.
"""

from raymtl.config.roles import Role, roles_at
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.storage.paths import join_path
from raymtl.tuning.objective import check_objective
from raymtl.tuning.space import Space


def search_folder(config: Config) -> str:
    """`<output>/<name>-tune`."""
    return join_path(config.output, f"{config.name}-tune")


def check(config: Config) -> Space:
    """Everything that can be said of a search without its data. Raises ConfigError."""
    if config.tune is None:
        raise ConfigError("the configuration has no section `tune`; say there what to search (docs/tuning.md)")
    check_objective(config, config.tune)
    space = Space(config)
    if config.tune.sampler.type == "grid" and (axis := next((a for a in space.axes if a.choices is None), None)):
        raise ConfigError(
            f"tune.sampler.type is `grid`, but tune.space.{axis.name} is a range; give it a `choice`, or take another sampler"
        )
    fields = [field for axis in space.axes for field in axis.fields]
    if mapped := next((field for field in fields if _changes_map(field, config)), None):
        raise ConfigError(f"tune.space.{mapped} cannot be searched: all trials share the map of that table; remove it")
    if (stages := config.tune.structure_trials) and len({axis.couples for axis in space.axes}) < 2:
        kind = "loss weights and couplings" if space.axes[0].couples else "structure"
        raise ConfigError(
            f"tune.structure_trials is {stages}, but the space has nothing but {kind}; set it to 0, or add the other kind"
        )
    shaping = next((field for field in fields if any(Role.STRUCTURE in role for role in roles_at(Config, field))), None)
    if config.tune.start is not None and shaping is not None:
        raise ConfigError(
            f"tune.space.{shaping} changes the shape of the model, so that no trial could begin with the version of tune.start; "
            "remove one of the two"
        )
    if config.train.min_workers is not None:
        raise ConfigError(
            "train.min_workers is set, but all trials of a search need the same number of workers; set train.workers alone"
        )
    if config.tune.start is not None and config.train.workers > 1:
        raise ConfigError(
            "tune.start needs train.workers: 1; a trial with several workers cannot begin with a version yet"
        )
    return space


def _changes_map(field: str, config: Config) -> bool:
    """Whether a field decides on which ID holds which row of a `map` table."""
    section, *keys = field.split(".")
    return (
        section == "tables"
        and keys[0] in config.map_tables()
        and any(Role.LOOKUP in role for role in roles_at(Config, field))
    )
