"""The lists of rows that formulas are compared on: saved predictions with the labels that followed.

Shapes: N rows, L lists, T tasks with a gain, U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raymtl.config.root import Config
from raymtl.config.score import Explored, Formula, Score
from raymtl.data.contract import label_tasks
from raymtl.data.ids.hashing import mix64, to_int64
from raymtl.data.labels import make_labels
from raymtl.data.row_weights import row_weights
from raymtl.data.rules import Rule, floats, int64_values, one_array
from raymtl.errors import ConfigError, DataError
from raymtl.objectives.fusion import fuse
from raymtl.objectives.metrics.changes import half_width
from raymtl.objectives.metrics.fused import session_gain
from raymtl.objectives.metrics.ranked import top_shares


@dataclass(frozen=True)
class Sessions:
    """Lists of rows; what is not known of a row is not in it."""

    outputs: dict[str, Tensor]
    """[N] float32 each, by name."""
    tasks: list[str]
    """The T tasks with a gain."""
    weights: Tensor
    """[T] float64: what a label is worth."""
    labels: Tensor
    """[N, T] float64; 0 where it is not defined, or in a row that was not shown."""
    lists: Tensor
    """[N] int64 in [0, L)."""
    user: Tensor
    """[L] int64 in [0, U): the user of each list, whose lists resemble each other."""
    at: int
    """Rows of a list that a user sees."""
    row_weight: Tensor | None = None
    """[N] float64 > 0: a list weighs as much as its rows on average; None: all the same."""
    given: dict[str, str] = field(default_factory=dict)
    """The condition of each conditional task."""
    propensity: Tensor | None = None
    """[N] float64, only of the randomised slice."""
    shown: Tensor | None = None
    """[N] bool, likewise."""

    @property
    def count(self) -> int:
        """L."""
        return len(self.user)

    @property
    def users(self) -> int:
        """U."""
        return int(self.user.max()) + 1 if len(self.user) else 0

    @cached_property
    def weight(self) -> Tensor:
        """[L] float64: the weight of each list."""
        ones = torch.ones(len(self.lists), dtype=torch.float64)
        return self.sum(ones if self.row_weight is None else self.row_weight) / self.sum(ones)

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """What the model expects of the label of each task with a gain, [N] float32 by its formula: the prediction of a
        conditional task times the probability of its condition, and of that one's, as the label counts 0 elsewhere."""
        found = {}
        for task in self.tasks:
            factors = [task]
            while factors[-1] in self.given:
                factors.append(self.given[factors[-1]])
            found[" · ".join(factors)] = torch.stack([self.outputs[name] for name in factors]).prod(0)
        return found

    def shares(self, formula: Formula) -> Tensor:
        """The chance [N] of each row to be seen under a formula of the outputs, or of what is `expected`."""
        return top_shares(self.lists, self.count, fuse(formula, {**self.outputs, **self.expected}), self.at)

    def values(self, formula: Formula) -> Tensor:
        """[L, T] float64: the labels of the rows that are seen, list by list."""
        return self.sum(self.shares(formula).unsqueeze(1) * self.labels)

    def sum(self, rows: Tensor) -> Tensor:
        """Sums by list of [N, …]."""
        return rows.new_zeros(self.count, *rows.shape[1:]).index_add_(0, self.lists, rows)

    def means(self, by_list: Tensor) -> Tensor:
        """The weighted means […] over the lists of [L, …]."""
        return torch.tensordot(self.weight / self.weight.sum(), by_list, 1)

    def mean(self, by_list: Tensor) -> tuple[float, float | None]:
        """The mean of a number of each list [L], and half its 95 % interval, in which the lists of a user are one observation."""
        mean = float(self.means(by_list))
        moved = self.weight * (by_list - mean) / self.weight.sum()
        effects = by_list.new_zeros(self.users).index_add_(0, self.user, moved)
        squares = effects.square()
        return mean, half_width(float(squares.sum()), float(squares.square().sum()), self.users)

    def part(self, where: Tensor) -> "Sessions":
        """The lists at a mask [L]."""
        rows = where[self.lists]
        number = where.long().cumsum(0) - 1
        _, user = torch.unique(self.user[where], return_inverse=True)
        return replace(
            self,
            outputs={name: column[rows] for name, column in self.outputs.items()},
            labels=self.labels[rows],
            lists=number[self.lists[rows]],
            user=user,
            row_weight=None if self.row_weight is None else self.row_weight[rows],
            propensity=None if self.propensity is None else self.propensity[rows],
            shown=None if self.shown is None else self.shown[rows],
        )

    def halves(self, seed: int) -> tuple["Sessions", "Sessions"]:
        """Two halves by user: one to fit on, the other to judge on."""
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(self.users) % 2 == 0)
        return self.part(chosen[self.user]), self.part(~chosen[self.user])


def key_columns(config: Config, score: Score) -> list[str]:
    """The columns of the logs that saved predictions must have beside them, each once."""
    data = config.data
    if data.request is None and data.group is None:
        raise ConfigError(
            "the search compares the rows of a list, but the logs name none; set data.request or data.group to a column"
        )
    labels = [
        column for name, t in label_tasks(config).items() for column in (t.label_column(name), t.observed) if column
    ]
    weight = [] if data.weight is None else [data.weight]
    explored = [] if score.explored is None else [score.explored.propensity, score.explored.shown]
    return list(dict.fromkeys([c for c in (data.request, data.group) if c] + labels + weight + explored))


def read_sessions(
    table: pa.Table, config: Config, score: Score, outputs: Sequence[str]
) -> tuple[Sessions, Sessions | None]:
    """The lists of the logs, and those of their randomised slice, out of predictions with their `key_columns`.

    Rows of weight 0 are left out of both, and those whose gain is not known of the first. Raises DataError for labels, weights or
    propensities that break their rule.
    """

    def broken(name: str, wrong: np.ndarray, column: pa.Array) -> None:
        row = int(wrong.argmax())
        raise DataError(
            f"column `{config.tasks[name].label_column(name)}` has {column[row].as_py()!r} in row {row}, which is no label of "
            f"tasks.{name}; run `raymtl check`, and fix the logs"
        )

    def broken_weight(name: str, key: str, wrong: np.ndarray, column: pa.Array, rule: Rule) -> None:
        row = int(wrong.argmax())
        raise DataError(
            f"column `{name}` ({key}) has {column[row].as_py()!r} in row {row}; expected {rule.expected}: {rule.remedy}"
        )

    tasks = config.active_tasks()
    made = make_labels(table, label_tasks(config), config.multiplies_labels(), broken).final
    labels = torch.from_numpy(np.stack([made[name] for name in tasks], 1))
    _, known = session_gain(score, tasks, labels, ~labels.isnan())
    weight = row_weights(table, config, broken_weight)
    counts = torch.ones_like(known) if weight is None else torch.from_numpy(weight > 0)
    known &= counts
    gained = [name for name, weight in score.gain.items() if weight]
    columns = labels[:, [list(tasks).index(name) for name in gained]].double().nan_to_num()
    lists, user = _lists(table, config)
    everything = Sessions(
        outputs={name: torch.from_numpy(table.column(f"pred_{name}").to_numpy().copy()) for name in outputs},
        tasks=gained,
        weights=torch.tensor([score.gain[name] for name in gained], dtype=torch.float64),
        labels=columns,
        lists=lists,
        user=user,
        at=score.at,
        row_weight=None if weight is None else torch.from_numpy(weight).double(),
        given={name: task.given for name, task in tasks.items() if task.given is not None},
    )
    if score.explored is None:
        return _kept(everything, known), None
    propensity, shown = _explored(table, score.explored)
    inside = ~propensity.isnan() & counts
    if bool((shown & inside & ~known).any()):
        raise DataError(
            "a row of the randomised slice was shown, but a label with a gain is not observed; wait until it is final"
        )
    slice_ = replace(everything, labels=columns * shown.unsqueeze(1), propensity=propensity, shown=shown)
    found = _kept(slice_, inside)
    return _kept(everything, known & propensity.isnan()), found if found.count else None


def _lists(table: pa.Table, config: Config) -> tuple[Tensor, Tensor]:
    """The list [N] of each row, and the user [L] of each list; a null request is a list of its own, and so is a null user."""
    data = config.data
    names = [name for name in (data.group, data.request) if name is not None]
    keys = []
    for name in names:
        column = one_array(table, name, "id")
        ids = mix64(int64_values(to_int64(column)))
        nulls = ~column.is_valid().to_numpy(zero_copy_only=False)
        keys.append((ids ^ np.where(nulls, mix64(np.arange(len(ids))), np.uint64(0))).view(np.int64))
    _, user = np.unique(keys[0], return_inverse=True)
    pairs = np.stack([user, keys[-1]], 1)
    _, first, lists = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    return torch.from_numpy(lists.reshape(-1)), torch.from_numpy(user[first])


def _explored(table: pa.Table, explored: Explored) -> tuple[Tensor, Tensor]:
    """Propensity, NaN outside of the slice, and whether a row was shown."""
    propensity = floats(one_array(table, explored.propensity, "number")).astype(np.float64)
    wrong = ~np.isnan(propensity) & ~((propensity > 0) & (propensity <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"column `{explored.propensity}` is {propensity[row]:g} in row {row}; a propensity is a probability above 0: write "
            "null outside of the randomised slice"
        )
    flags = one_array(table, explored.shown, "flag")
    return torch.from_numpy(propensity), torch.from_numpy(floats(flags.cast(pa.int8())) == 1)


def _kept(sessions: Sessions, rows: Tensor) -> Sessions:
    """The rows at a mask [N], with their lists numbered anew."""
    numbers, lists = torch.unique(sessions.lists[rows], return_inverse=True)
    _, user = torch.unique(sessions.user[numbers], return_inverse=True)
    return replace(
        sessions,
        outputs={name: column[rows] for name, column in sessions.outputs.items()},
        labels=sessions.labels[rows],
        lists=lists,
        user=user,
        row_weight=None if sessions.row_weight is None else sessions.row_weight[rows],
        propensity=None if sessions.propensity is None else sessions.propensity[rows],
        shown=None if sessions.shown is None else sessions.shown[rows],
    )
