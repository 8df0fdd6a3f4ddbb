"""All checks of a search that need no data.

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
    """All checks of a search that need no data. Raises ConfigError."""
    if config.tune is None:
        raise ConfigError(
            "the configuration has no section `tune`; add tune.objective and tune.space or tune.presets (docs/tuning.md)"
        )
    check_objective(config, config.tune)
    space = Space(config)
    if config.tune.sampler.type == "grid" and (
        dimension := next((a for a in space.dimensions if a.choices is None), None)
    ):
        raise ConfigError(
            f"tune.sampler.type is `grid`, but tune.space.{dimension.name} is a range; give it a `choice`, or set another sampler"
        )
    fields = [field for dimension in space.dimensions for field in dimension.fields]
    if mapped := next((field for field in fields if _changes_map(field, config)), None):
        raise ConfigError(f"tune.space.{mapped} cannot be searched: all trials share the map of that table; remove it")
    if (stages := config.tune.structure_trials) and len({dimension.couples for dimension in space.dimensions}) < 2:
        kind = "loss weights and coupler options" if space.dimensions[0].couples else "structure fields"
        raise ConfigError(
            f"tune.structure_trials is {stages}, but the search space contains only {kind}; set it to 0, or add a dimension of "
            f"the other kind to tune.space"
        )
    shaping = next((field for field in fields if any(Role.STRUCTURE in role for role in roles_at(Config, field))), None)
    if config.tune.start is not None and shaping is not None:
        raise ConfigError(
            f"tune.space.{shaping} changes the shape of the model, so no trial could start from the version of tune.start; "
            "remove one of the two"
        )
    if config.train.min_workers is not None:
        raise ConfigError(
            "train.min_workers is set, but all trials of a search need the same number of workers; set train.workers alone"
        )
    if config.tune.start is not None and config.train.workers > 1:
        raise ConfigError(
            "tune.start needs train.workers: 1; a trial with several workers cannot start from a version yet"
        )
    return space


def _changes_map(field: str, config: Config) -> bool:
    """Whether a field affects which row of a `map` table an ID is assigned to."""
    section, *keys = field.split(".")
    return (
        section == "tables"
        and keys[0] in config.map_tables()
        and any(Role.LOOKUP in role for role in roles_at(Config, field))
    )
