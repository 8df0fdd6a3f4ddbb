"""The search space: the dimensions to sample from, and the configuration that sampled parameters stand for."""

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raymtl.config.base import did_you_mean
from raymtl.config.load import MOST, config_from_dict
from raymtl.config.roles import Role, not_searched, roles_at
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.config.tune import Dimension
from raymtl.errors import ConfigError

Raw = dict[str, Any]
Params = dict[str, Any]
"""Sampled parameters by the name of the dimension, without those whose condition does not hold."""

RATIO = "weight_ratio."
"""Dimensions of `loss_weights`: weight of a task over that of the first task."""


@dataclass(frozen=True)
class SearchDimension:
    """One dimension of the search space."""

    name: str
    """Dotted path of the field, or `weight_ratio.<task>`."""
    distribution: BaseDistribution
    fields: tuple[str, ...]
    """Fields that the value is written to."""
    choices: tuple[Any, ...] | None = None
    """Values of a choice; its distribution holds their texts."""
    when: Mapping[str, Any] = field(default_factory=dict)

    def value(self, param: Any) -> Any:
        """The value that is written into the configuration."""
        if self.choices is None:
            return param
        return self.choices[list(self.distribution.choices).index(param)]  # type: ignore[attr-defined]

    def param_of(self, value: Any) -> Any:
        """The parameter that gives this value; None if there is none."""
        if self.choices is not None:
            same = isinstance(value, bool)
            found = [i for i, choice in enumerate(self.choices) if choice == value and isinstance(choice, bool) is same]
            return self.distribution.choices[found[0]] if found else None  # type: ignore[attr-defined]
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        return value if numeric and self.distribution._contains(value) else None

    @property
    def values(self) -> str:
        """Its values, as text."""
        if self.choices is not None:
            return f"one of {list(self.choices)}"
        low, high = self.distribution.low, self.distribution.high  # type: ignore[attr-defined]
        return f"{low:g} to {high:g}" if isinstance(self.distribution, FloatDistribution) else f"{low:,} to {high:,}"

    def samples(self) -> list[Any]:
        """Values to try: every choice, or both ends of a range and one between: not all whole numbers may be valid."""
        if self.choices is not None:
            return list(self.choices)
        low, high = self.distribution.low, self.distribution.high  # type: ignore[attr-defined]
        between = low + (high - low) / math.pi if isinstance(self.distribution, FloatDistribution) else low + 1
        return [low, high, between]

    @property
    def couples(self) -> bool:
        """Whether this is a loss weight or a coupler option, which a search in two stages leaves to the second."""
        return all(Role.COUPLING in role for path in self.fields for role in roles_at(Config, path))


class Space:
    """All dimensions of a search over one configuration."""

    def __init__(self, config: Config):
        """Raises ConfigError if a dimension names an unknown field or an invalid value."""
        assert config.tune is not None
        self.base: Raw = config.model_copy(update={"tune": None}).model_dump(mode="json")
        self._tasks = list(config.active_tasks())
        own = [_search_dimension(name, d) for name, d in config.tune.space.items()]
        named = {f for dimension in own for f in dimension.fields}
        ready = [
            dimension
            for kind in config.tune.presets
            for dimension in _PRESETS[kind](config, kind, config.tune.space)
            if not named & set(dimension.fields)
        ]
        # a condition is looked up among the earlier parameters
        self.dimensions = sorted([*own, *ready], key=lambda dimension: bool(dimension.when))
        if not self.dimensions:
            raise ConfigError(
                "tune has neither `space` nor `presets`; name a field to search, such as tasks.<task>.weight"
            )
        self._check()

    def active(self, dimension: SearchDimension, params: Params) -> bool:
        """Whether the condition of a dimension holds, given the parameters so far."""
        if not dimension.when:
            return True
        try:
            raw = _complete(self._written(params))
        except ConfigError:  # the combination is invalid; the trial reports the error
            return False
        return all(_get(raw, path) in (v if isinstance(v, list) else [v]) for path, v in dimension.when.items())

    def fields(self, params: Params) -> dict[str, Any]:
        """The fields that parameters set, by dotted path."""
        found = {
            path: dimension.value(params[dimension.name])
            for dimension in self.dimensions
            if dimension.name in params and not dimension.name.startswith(RATIO)
            for path in dimension.fields
        }
        ratios = {n.removeprefix(RATIO): v for n, v in params.items() if n.startswith(RATIO)}
        if ratios:
            found |= {f"tasks.{task}.weight": weight for task, weight in self._weights(ratios).items()}
        return found

    def config(self, params: Params, seed: int | None = None) -> Config:
        """The configuration of a trial. Raises ConfigError if the combination of values is invalid."""
        raw = self._written(params)
        if seed is not None:
            raw["train"]["seed"] = raw["data"]["shuffle"]["seed"] = seed
        return config_from_dict(raw, "the configuration of the trial")

    def default(self) -> Params | None:
        """The parameters of the default configuration; None if the space does not contain it."""
        params: Params = {}
        for dimension in self.dimensions:
            if not self.active(dimension, params):
                continue
            if dimension.name.startswith(RATIO):
                first, own = (
                    _get(self.base, f"tasks.{t}.weight") for t in (self._tasks[0], dimension.name.removeprefix(RATIO))
                )
                value = own / first if first else None
            else:
                values = [_get(self.base, path) for path in dimension.fields]
                value = values[0] if all(v == values[0] for v in values) else None
            param = None if value is None and dimension.choices is None else dimension.param_of(value)
            if param is None:
                return None
            params[dimension.name] = param
        return params

    def grid(self) -> list[Params]:
        """Every combination of the choices, without those that a condition makes equal."""
        found: dict[str, Params] = {}
        for values in itertools.product(*(dimension.distribution.choices for dimension in self.dimensions)):  # type: ignore[attr-defined]
            params: Params = {}
            for dimension, value in zip(self.dimensions, values, strict=True):
                if self.active(dimension, params):
                    params[dimension.name] = value
            found.setdefault(json.dumps(params, sort_keys=True), params)
        return list(found.values())

    def _weights(self, ratios: Mapping[str, float]) -> dict[str, float]:
        """Weights of the given ratios to the first task, with the geometric mean that the configuration's weights have."""
        before = [_get(self.base, f"tasks.{task}.weight") for task in self._tasks]
        relative = [ratios.get(task, w / before[0]) for task, w in zip(self._tasks, before, strict=True)]
        relative[0] = 1.0
        scale = (_product(before) / _product(relative)) ** (1 / len(relative))
        return {task: scale * value for task, value in zip(self._tasks, relative, strict=True)}

    def _written(self, params: Params) -> Raw:
        return _with(self.base, self.fields(params))

    def _check(self) -> None:
        """Try every value of a choice and both ends of a range, one at a time with the rest of the default configuration."""
        problems: list[str] = []
        for dimension in self.dimensions:
            for value in dimension.samples():
                if dimension.name.startswith(RATIO):
                    continue
                try:
                    raw = _complete(_with(self.base, _conditions(dimension))) if dimension.when else self.base
                except ConfigError as error:
                    problems.append(f"tune.space.{dimension.name}.when: {error}")
                    break
                known = {path: _holder(raw, path) for path in dimension.fields}
                lost = next((path for path, keys in known.items() if keys is None), None)
                if lost is not None:
                    problems.append(_lost(dimension, lost, raw))
                    break
                try:
                    config_from_dict(_with(raw, dict.fromkeys(dimension.fields, value)), f"tune.space.{dimension.name}")
                except ConfigError as error:
                    problems.append(str(error))
                    break
        if problems:
            shown = problems[:MOST]
            more = [f"… and {len(problems) - MOST} more"] if len(problems) > MOST else []
            raise ConfigError("\n".join([*shown, *more]))


def _search_dimension(name: str, dimension: Dimension) -> SearchDimension:
    """A dimension as the user wrote it."""
    _refuse_fixed(name)
    when = dict(dimension.when)
    if dimension.choice is not None:
        return _choice(name, (name,), dimension.choice, when)
    for kind, make in _RANGES.items():
        limits = getattr(dimension, kind)
        if limits is not None:
            return SearchDimension(name, make(*limits), (name,), when=when)
    raise AssertionError(name)


_RANGES: dict[str, Any] = {
    "uniform": lambda low, high: FloatDistribution(low, high),
    "log_uniform": lambda low, high: FloatDistribution(low, high, log=True),
    "integer": lambda low, high: IntDistribution(low, high),
    "log_integer": lambda low, high: IntDistribution(low, high, log=True),
}


def _choice(name: str, fields: tuple[str, ...], values: list[Any], when: Mapping[str, Any]) -> SearchDimension:
    """Values of any kind; the sampler gets their texts, which a file can hold."""
    return SearchDimension(name, CategoricalDistribution([json.dumps(v) for v in values]), fields, tuple(values), when)


def _refuse_fixed(name: str) -> None:
    parts = name.split(".")
    free = [key for key in Task.model_fields if not_searched(Task, key) is None]
    if parts[0] == "tasks" and (len(parts) < 3 or parts[2] not in free):
        raise ConfigError(
            f"tune.space.{name} cannot be searched: it changes what is measured; search one of "
            f"tasks.<task>.{{{', '.join(free)}}}, or remove it{did_you_mean(parts[-1], free)}"
        )
    if (reason := not_searched(Config, name)) is not None:
        raise ConfigError(f"tune.space.{name} cannot be searched: {reason}; remove it")


# Presets of the search space


def _loss_weights(config: Config, kind: str, own: Mapping[str, Any]) -> Iterator[SearchDimension]:
    first, *others = config.active_tasks()
    if not others:
        raise ConfigError(f"tune.presets names `loss_weights`, but `{first}` is the only task; remove it")
    if taken := next((n for n in own if n.startswith("tasks.") and n.endswith(".weight")), None):
        raise ConfigError(f"tune.presets names `loss_weights`, and tune.space has {taken} too; keep one of them")
    zero = next((n for n, t in config.active_tasks().items() if t.weight == 0), None)
    if zero is not None:
        raise ConfigError(f"tasks.{zero}.weight is 0, so `loss_weights` has no ratio to start from; give it a weight")
    for task in others:
        yield SearchDimension(f"{RATIO}{task}", FloatDistribution(0.1, 10, log=True), (f"tasks.{task}.weight",))


def _alpha(config: Config, kind: str, own: Mapping[str, Any]) -> Iterator[SearchDimension]:
    if not any(t.parent for t in config.active_tasks().values()):
        raise ConfigError(
            "tune.presets names `alpha`, but no task has a `parent`, so there is no order to enforce; remove it"
        )
    # Products of probabilities keep the order by themselves: there alpha would change nothing
    free = ["ait", "ait_cross", "none"]
    searched = own.get("model.coupler.type") or own.get("model.coupler") or own.get("model.preset")
    if searched is None and config.model.coupler.type not in (*free, "custom"):
        raise ConfigError(
            f"tune.presets names `alpha`, but model.coupler.type is `{config.model.coupler.type}`, whose probabilities keep "
            "the funnel's order by themselves; remove it"
        )
    when = {"model.coupler.type": ["ait", "ait_cross"]} if searched is not None else {}
    yield _choice("model.order_loss.alpha", ("model.order_loss.alpha",), [0.0, 0.1, 0.3, 0.6, 1.0, 3.0], when)


def _learning_rates(config: Config, kind: str, own: Mapping[str, Any]) -> Iterator[SearchDimension]:
    for name in ("dense_optimizer", "sparse_optimizer"):
        lr = getattr(config.train, name).lr
        path = f"train.{name}.lr"
        yield SearchDimension(path, FloatDistribution(lr / 5, lr * 5, log=True), (path,))


def _trunk(config: Config, kind: str, own: Mapping[str, Any]) -> Iterator[SearchDimension]:
    trunk = config.model.trunk
    for path, section in (("model.trunk.hidden", trunk), ("model.towers.hidden", config.model.towers)):
        widths = list(getattr(section, "hidden", []))
        if widths:
            yield _choice(path, (path,), [[max(w // 2, 1) for w in widths], widths, [w * 2 for w in widths]], {})
    experts = getattr(trunk, "experts", None)
    if experts is not None:
        yield _choice(
            "model.trunk.experts", ("model.trunk.experts",), sorted({max(experts // 2, 1), experts, experts * 2}), {}
        )


def _embedding_dims(config: Config, kind: str, own: Mapping[str, Any]) -> Iterator[SearchDimension]:
    """One width for all tables: some input layers need equal widths."""
    dims = [table.dim for table in config.tables.values()]
    if not dims:
        raise ConfigError("tune.presets names `embedding_dims`, but there is no table; remove it")
    common = max(set(dims), key=dims.count)
    paths = tuple(f"tables.{name}.dim" for name, table in config.tables.items() if table.dim == common)
    yield _choice("tables.*.dim", paths, sorted({max(common // 8 * 4, 4), common, common * 2}), {})


_PRESETS = {
    "loss_weights": _loss_weights,
    "alpha": _alpha,
    "learning_rates": _learning_rates,
    "trunk": _trunk,
    "embedding_dims": _embedding_dims,
}


# Dotted paths


def _complete(raw: Raw) -> Raw:
    """With every default filled in, those of a preset too."""
    return config_from_dict(raw).model_dump(mode="json")


def _conditions(dimension: SearchDimension) -> dict[str, Any]:
    """The fields of a dimension's condition, with values that meet it."""
    return {path: value[0] if isinstance(value, list) else value for path, value in dimension.when.items()}


def _lost(dimension: SearchDimension, path: str, raw: Raw) -> str:
    """The message on a path to no field, with the nearest name at the place of the error."""
    keys = path.split(".")
    inner: Any = raw
    for n, key in enumerate(keys):
        if not isinstance(inner, dict):
            return f"tune.space.{dimension.name}: `{'.'.join(keys[:n])}` is `{inner}` and has no keys"
        if key not in inner:
            here = ".".join(keys[:n])
            near = did_you_mean(key, inner)
            known = "" if near else "; known are " + ", ".join(f"`{k}`" for k in list(inner)[:12])
            of = f"`{here}`" if here else "the configuration"
            of += f" (of `{inner['type']}`)" if here and "type" in inner else ""
            return f"tune.space.{dimension.name} names no field: {of} has no key `{key}`{near}{known}"
        inner = inner[key]
    raise AssertionError(path)


def _holder(raw: Raw, path: str) -> Raw | None:
    """The mapping that has the last key of a path; None if there is no such field."""
    *above, last = path.split(".")
    inner: Any = raw
    for key in above:
        if not isinstance(inner, dict) or key not in inner:
            return None
        inner = inner[key]
    return inner if isinstance(inner, dict) and last in inner else None


def _get(raw: Raw, path: str) -> Any:
    holder = _holder(raw, path)
    return None if holder is None else holder[path.rpartition(".")[2]]


def _with(raw: Raw, fields: Mapping[str, Any]) -> Raw:
    """A copy with some fields set. A slot whose type changes keeps none of its other keys, nor does a model of another preset."""
    written = copy.deepcopy(raw)
    for path in sorted(fields, key=lambda p: (not p.endswith((".preset", ".type")), p.count("."))):
        value, (*above, last) = fields[path], path.split(".")
        inner = written
        for key in above:
            inner = inner.setdefault(key, {})
        # what an optimizer of one kind is set to, one of another kind takes as well
        if last in ("preset", "type") and inner.get(last) != value and "optimizer" not in path:
            inner.clear()
        inner[last] = copy.deepcopy(value)
    return written


def _product(values: list[float]) -> float:
    total = 1.0
    for value in values:
        total *= value
    return total
