"""Which columns a version could do without, from their importances."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.errors import ConfigError
from raymtl.explaining.cost import tables_of
from raymtl.explaining.importance import Columns, Importances
from raymtl.explaining.meter import Key, Measured, of_tasks
from raymtl.explaining.sample import source_columns
from raymtl.intervals import bonferroni

Verdict = Literal["used", "redundant", "useless"]
COPIES = 0.7
"""A column of which another one tells so much is nearly a copy, as of two normal variables with a correlation of .99: it can be
dropped, however the model has divided its weights between them."""


MOST_OF_BEST = 0.2
"""A column is only dropped as useless if it may be worth at most so much of what the best one is."""


@dataclass(frozen=True)
class Judgement:
    """What a column is worth."""

    verdict: Verdict
    """`used`: a metric falls without it, beyond chance. `redundant`: not, but it and the columns of `stands_in` are worth more
    together than one by one. `useless`: neither."""
    stands_in: tuple[str, ...] = ()
    """The other columns of its groups that are worth more together than one by one."""


@dataclass(frozen=True)
class Proposal:
    """What to drop."""

    useless: tuple[str, ...]
    """Columns that no metric needs."""
    redundant: Mapping[str, str]
    """Columns that another one, which stays, can stand in for."""

    @property
    def columns(self) -> Columns:
        """All of them."""
        return (*self.useless, *self.redundant)


def judge(found: Importances, groups: Sequence[Columns]) -> dict[str, Judgement]:
    """The judgement of every column that was permuted alone.

    A column has as many chances to seem used as there are tasks, and all groups together have far more to seem redundant: the
    intervals are widened for that (Bonferroni).
    """
    stand_ins: dict[str, list[str]] = {}
    for group in groups:
        if _any_above_zero(found.excess[group], len(groups)):
            for column in group:
                stand_ins.setdefault(column, []).extend(other for other in group if other != column)
    made = {}
    for (column, *others), scores in found.of.items():
        if not others:
            verdict: Verdict = (
                "used" if _any_above_zero(scores, 1) else "redundant" if column in stand_ins else "useless"
            )
            made[column] = Judgement(verdict, tuple(dict.fromkeys(stand_ins.get(column, []))))
    return made


def propose(
    config: Config,
    judged: Mapping[str, Judgement],
    found: Importances,
    names: Sequence[str],
    association: np.ndarray,
    broken: Collection[str],
) -> Proposal:
    """The columns to drop: those that are useless, and those that a copy or a better column stands in for.

    `association` is how much the columns `names` tell of each other. A column that the configuration needs otherwise stays,
    and so does one of `broken`, whose values on these days are not worth what they should be.
    """
    judged = {column: judgement for column, judgement in judged.items() if column not in broken}
    idle = [c for c, judgement in judged.items() if judgement.verdict == "useless" and _is_little(found, c)]
    useless = [c for c in idle if _goes(config, [c])]
    worth = {column: _worth(found, column) for column in judged}
    redundant: dict[str, str] = {}
    for column in sorted(judged, key=lambda c: worth[c]):
        judgement = judged[column]
        better = [
            o for o in judgement.stands_in if o not in redundant and o not in useless and worth[o] >= worth[column]
        ]
        if judgement.verdict == "used":  # only a copy can replace it
            better = [o for o in better if association[names.index(o), names.index(column)] >= COPIES]
        if better and _goes(config, [*useless, *redundant, column]):
            redundant[column] = max(better, key=lambda o: float(association[names.index(o), names.index(column)]))
    return Proposal(tuple(useless) if _goes(config, useless) else (), redundant)


def _is_little(found: Importances, column: str) -> bool:
    """Whether a column is worth little at most, by the upper ends of its intervals: few rows let a useful one seem useless."""
    alone = {names[0]: of_tasks(scores) for names, scores in found.of.items() if len(names) == 1}
    for task, score in alone[column].items():
        best = max((scores[task] for scores in alone.values()), key=lambda one: one.value)
        if best.value > best.half and score.value + score.half > MOST_OF_BEST * best.value:
            return False
    return True


def without(config: Config, columns: Collection[str]) -> Config:
    """The configuration without the features that read these columns. Raises ConfigError if it needs them."""
    sources = source_columns(config)
    gone = {feature for column in columns for feature in sources.get(column, [])}
    if unread := [column for column in columns if not sources.get(column)]:
        raise ConfigError(f"no feature reads the column `{unread[0]}`; name columns of features")
    raw = config.model_dump(mode="json", exclude_unset=True)
    raw["features"] = {name: feature for name, feature in raw["features"].items() if name not in gone}
    unused = tables_of(config, columns)
    raw["tables"] = {name: table for name, table in raw.get("tables", {}).items() if name not in unused}
    return config_from_dict(raw)


def _goes(config: Config, columns: Collection[str]) -> bool:
    if not columns:
        return True
    try:
        without(config, columns)
    except ConfigError:
        return False
    return True


def _any_above_zero(scores: Mapping[Key, Measured], among: int) -> bool:
    """Whether any task's score is above 0 beyond chance, if so many are looked at."""
    tasks = of_tasks(scores)
    wider = bonferroni(among * len(tasks)) if tasks else 1.0
    return any(score.value > wider * score.half for score in tasks.values())


def _worth(found: Importances, column: str) -> float:
    """The largest importance of a column in any task, as a share of the largest one of any column."""
    most: dict[str, float] = {}
    for columns, scores in found.of.items():
        if len(columns) == 1:
            for task, score in of_tasks(scores).items():
                most[task] = max(most.get(task, 0.0), score.value)
    own = of_tasks(found.of[(column,)])
    return max((score.value / most[task] for task, score in own.items() if most[task] > 0), default=0.0)
