"""What was measured, as plain values: what `raymtl.explain` returns."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raymtl.config.features import BucketFeature, DenseFeature
from raymtl.config.root import Config
from raymtl.data.units import Plan
from raymtl.explaining.association import alike, associations, twins
from raymtl.explaining.cost import bytes_per_row, memory_of, tables_of
from raymtl.explaining.fall import Fall
from raymtl.explaining.importance import Importances, OnCount, permutation_importance
from raymtl.explaining.meter import Key, Measured, headline_of, of_tasks, unsigned
from raymtl.explaining.model import LoadedModel, table_bytes
from raymtl.explaining.proposal import Proposal, judge, propose
from raymtl.explaining.sample import Sample, SampleReader, source_columns
from raymtl.explaining.symptom import symptom
from raymtl.reports.tables import ALL


def number_columns(config: Config) -> set[str]:
    """The columns that are read as numbers."""
    features = config.features.items()
    return {f.column or name for name, f in features if isinstance(f, DenseFeature | BucketFeature)}


@dataclass(frozen=True)
class Explanation:
    """What was measured."""

    config: Config
    names: list[str]
    groups: list[tuple[str, ...]]
    association: np.ndarray
    found: Importances
    proposal: Proposal
    together: dict[Key, Measured]
    """The importance of the columns that are proposed, permuted together; empty without any."""
    sizes: dict[str, float]
    tables: dict[str, int]
    training: dict[str, int]

    @classmethod
    def of(
        cls,
        model: LoadedModel,
        reader: SampleReader,
        sample: Sample,
        plan: Plan,
        broken: Collection[str],
        seed: int,
        on_count: OnCount,
    ) -> "Explanation":
        """Measure all columns, their groups, and the proposal, which leaves out `broken` columns."""
        config, names = model.config, list(source_columns(model.config))
        association = associations(sample.raw.select(names), number_columns(config), seed)
        groups = alike(names, association)
        singles = [(name,) for name in names]
        found = permutation_importance(model, reader, sample, [*singles, *groups], seed, on_count)
        proposal = propose(config, judge(found, groups), found, names, association, broken)
        together: dict[Key, Measured] = {}
        if proposal.columns:
            more = permutation_importance(model, reader, sample, [proposal.columns], seed)
            together = more.of[proposal.columns]
        tables, training = (dict(table_bytes(model.version, state)) for state in (False, True))
        sizes = bytes_per_row(plan, sample.raw.column_names)
        sizes = {name: sizes[name] + sum(sizes[other] for other in sample.beside.get(name, ())) for name in names}
        return cls(config, names, groups, association, found, proposal, together, sizes, tables, training)

    def to_dict(self) -> dict[str, Any]:
        """`metrics`, `columns`, `groups_alike` and `proposal` of what `raymtl.explain` returns."""
        judged, sources = judge(self.found, self.groups), source_columns(self.config)
        twin = twins(self.names, self.association)
        columns = {}
        for name in self.names:
            of = twin.get(name)
            columns[name] = {
                "features": sources[name],
                "verdict": judged[name].verdict,
                "stands_in": list(judged[name].stands_in),
                "twin": None if of is None else {"column": of[0], "association": round(of[1], 4)},
                **_by_scenario(self.found.of[(name,)]),
                **self._cost([name]),
            }
        tasks = self.config.active_tasks()
        metrics = {}
        for name, score in of_tasks(self.found.base).items():
            metric = headline_of(tasks[name])
            metrics[name] = {"metric": metric.name, "value": unsigned(metric, score.value), "half": _known(score.half)}
        return {
            "metrics": metrics,
            "columns": columns,
            "groups_alike": [self._group(group) for group in self.groups],
            "proposal": {
                "useless": list(self.proposal.useless),
                "redundant": dict(self.proposal.redundant),
                **_by_scenario(self.together),
                **self._cost(self.proposal.columns),
            },
        }

    def _group(self, group: tuple[str, ...]) -> dict[str, Any]:
        places = [self.names.index(name) for name in group]
        inside = np.maximum(self.association, self.association.T)[np.ix_(places, places)]
        total = {
            task: sum(self.found.of[(name,)][task, ALL].value for name in group) for task in of_tasks(self.found.base)
        }
        return {
            "columns": list(group),
            "association": round(float(inside.min()), 4),
            "importance": _by_scenario(self.found.of[group])["importance"],
            "sum": total,
            "excess": _by_scenario(self.found.excess[group])["importance"],
        }

    def _cost(self, columns: Sequence[str]) -> dict[str, Any]:
        return {
            "bytes_per_row": round(sum(self.sizes[name] for name in columns), 2),
            "tables": [table for table in tables_of(self.config, columns) if table in self.tables],
            "table_bytes": memory_of(self.config, columns, self.tables),
            "training_bytes": memory_of(self.config, columns, self.training),
        }


def _by_scenario(scores: dict[Key, Measured]) -> dict[str, Any]:
    """Importances over all rows, and by scenario."""
    scenarios: dict[str, dict[str, Any]] = {}
    for (task, scenario), score in scores.items():
        scenarios.setdefault(scenario, {})[task] = _interval(score.value, score.half)
    return {"importance": scenarios.pop(ALL, {}), "scenarios": scenarios}


def _interval(value: float, half: float) -> dict[str, float | None]:
    known = math.isfinite(half)
    return {"value": value, "low": value - half if known else None, "high": value + half if known else None}


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def falls_to_dict(config: Config, falls: Sequence[Fall], before: Sample, after: Sample) -> dict[str, Any]:
    """The tasks on the two days, with the columns that explain their falls."""
    tasks = {}
    numbers = number_columns(config)
    for fall in falls:
        metric = headline_of(config.tasks[fall.task])
        tasks[fall.task] = {
            "metric": metric.name,
            "before": unsigned(metric, fall.before),
            "after": unsigned(metric, fall.after),
            "fall": _interval(fall.before - fall.after, fall.half),
            "has_fallen": fall.has_fallen,
            "causes": [
                {
                    "column": cause.column,
                    "lost": _interval(cause.lost, cause.half),
                    "worth_before": cause.before,
                    "worth_after": cause.after,
                    "symptom": symptom(
                        before.raw.column(cause.column), after.raw.column(cause.column), cause.column in numbers
                    ),
                }
                for cause in fall.causes
            ],
        }
    return {"rows": [before.rows, after.rows], "tasks": tasks}
