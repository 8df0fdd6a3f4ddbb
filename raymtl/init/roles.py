"""What each column of the logs is for: guessed from its type, its name and its values, each with the reason."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

from raymtl.init import words as names
from raymtl.init.label_values import event_labels, event_values, is_binary, named_values
from raymtl.init.profile import ColumnProfile, Profile
from raymtl.words import count_of

Role = Literal[
    "label",
    "observed",
    "id",
    "ids",
    "sequence",
    "dense",
    "bias",
    "group",
    "request",
    "scenario",
    "time",
    "weight",
    "vector",
    "truth",
    "ignore",
]
_CHOICES: dict[str, tuple[Role, ...]] = {
    "flag": ("label", "dense", "observed", "ignore"),
    "integer": ("label", "id", "dense", "bias", "weight", "ignore"),
    "float": ("label", "dense", "weight", "ignore"),
    "text": ("id", "ignore"),
    "list of integer": ("ids", "sequence", "ignore"),
    "list of text": ("ids", "sequence", "ignore"),
}

_FEW_STEPS = 10
_FEW_CATEGORIES = 50
_MANY_CATEGORIES = 2000
_MOST_SCENARIOS = 20
_FEW_USERS = 10
_KEY_SHARE = 0.9
"""A column with more different values than this share of the rows names a row and repeats too little to learn from."""
_TEXT_BYTES = 40
_LEAK_AUC = 0.985
_FEW_POSITIVES = 30
_MOST_WORDS = 1000
"""Beyond so many different values, each is too rare in the sample to tell anything."""


@dataclass(frozen=True)
class Guess:
    """The use of one column."""

    column: str
    role: Role
    why: str
    sure: bool = True

    @property
    def is_asked(self) -> bool:
        """Whether it is worth a question: a mistake would make the metrics too good, or leave out a label."""
        return not self.sure and self.role in ("label", "observed", "truth", "ignore")


def guess_roles(profile: Profile, labels: Collection[str] = (), ignored: Collection[str] = ()) -> dict[str, Guess]:
    """A guess for every column, in the order of the files; `labels` and `ignored` are what the user said."""
    found = {name: _guess(name, column, profile.rows) for name, column in profile.columns.items()}
    found |= {name: Guess(name, "ignore", "as you said") for name in ignored}
    found = _one_group(found, profile)
    if labels:
        found = {
            name: Guess(name, "ignore", "a label that you did not name", sure=False) if g.role == "label" else g
            for name, g in found.items()
        }
        found |= {name: Guess(name, "label", "as you said") for name in labels}
    elif not any(g.role == "label" for g in found.values()):
        found |= _unnamed_labels(profile, found)
    return _only_first(_truths(found, profile), profile)


def choices(guess: Guess, column: ColumnProfile) -> list[Role]:
    """The uses that a column of its kind may have, the guess first."""
    label: tuple[Role, ...] = ("label",) if column.kind == "text" and event_values(column) else ()
    return list(dict.fromkeys([guess.role, *label, *_CHOICES.get(column.kind, ("ignore",))]))


def answered(guess: Guess, role: str) -> Guess:
    """The use that somebody chose."""
    return guess if role == guess.role else Guess(guess.column, cast(Role, role), "as you said")


def with_answers(profile: Profile, found: dict[str, Guess], answers: Mapping[str, Guess]) -> dict[str, Guess]:
    """The guesses after somebody's answers: what a new label leaks into is left out, and only one column is the weight."""
    merged = find_leaks(profile, {**found, **answers}) | dict(answers)
    weights = [name for name, guess in merged.items() if guess.role == "weight"]
    kept = next((name for name in weights if name in answers), None)
    if kept is not None:
        for name in weights:
            if name != kept:
                merged[name] = Guess(name, "ignore", f"`{kept}` is the weight")
    return merged


def _guess(name: str, column: ColumnProfile, rows: int) -> Guess:
    """What a column is, by itself."""
    if column.kind == "null" or column.known == 0:
        return Guess(name, "ignore", "it has no value")
    if column.kind.startswith("mixed"):
        return Guess(name, "ignore", f"the files differ in it: {column.kind.removeprefix('mixed: ')}")
    if column.kind.startswith("list of "):
        return _list(name, column)
    if column.kind.startswith("map<"):
        why = f"a map: if it has IDs with weights, read it as {{kind: ids, weights: {name}}}"
        return Guess(name, "ignore", why)
    if column.kind not in ("flag", "integer", "float", "text", "time"):
        return Guess(name, "ignore", f"no feature reads the type {column.kind}")
    if column.values is not None and len(column.values) == 1 and not column.nulls:
        return Guess(name, "ignore", f"it is {next(iter(column.values))} in all rows")
    special = _by_name(name, column)
    if special is not None:
        return special
    return (_text if column.kind == "text" else _number)(name, column, rows)


def _by_name(name: str, column: ColumnProfile) -> Guess | None:
    """A use that the name gives away, if the values agree."""
    found = names.words(name)
    numeric = column.kind in ("flag", "integer", "float")
    if name.startswith("__index_level_"):
        return Guess(name, "ignore", "the index of a pandas table")
    if column.kind == "time" or (numeric and names.TIMES & set(found) and _is_unix_time(column)):
        if names.is_other_time(name):
            return Guess(name, "ignore", "a time, but by its name not that of the impression")
        return Guess(name, "time", "the time of the impression, by name and values")
    if column.kind == "text" and names.may_be_time(name):
        return Guess(name, "ignore", "a time, by its name, written as text other than 2026-01-31T12:00:00Z")
    if numeric and "_".join(found) in names.WEIGHTS and column.numbers.low >= 0 and not column.not_finite:
        return Guess(name, "weight", "the weight of a row, by its name")
    if names.FLAGS & set(found) and is_binary(column):
        return Guess(name, "observed", "says which labels are final, by its name", sure=False)
    if numeric and found[0] in names.PREDICTIONS and column.numbers.low >= 0 and column.numbers.high <= 1:
        return Guess(
            name, "truth", "looks like a prediction, by its name; a feature would learn to copy it", sure=False
        )
    past = names.HISTORY & set(found)
    if (two := named_values(column)) is not None and names.is_event(name):
        words = "0 and 1" if is_binary(column) else f"`{two[1]}` and `{two[0]}`"
        return Guess(name, "label", f"{words}, {_share(column)}, with the name of an event")
    is_amount = numeric and column.distinct > 2 and names.is_amount(name, surely=True)
    if is_amount and column.numbers.low >= 0 and not column.not_finite:
        return Guess(name, "label", "an amount that follows what the user did, by its name", sure=False)
    if names.POSITIONS & set(found[-1:]) and column.kind == "integer" and column.distinct <= 1000 and not past:
        return Guess(name, "bias", "where the item was shown: only a position tower reads it")
    return None


def _list(name: str, column: ColumnProfile) -> Guess:
    if column.kind == "list of float":
        return _vector(name, column)
    if not column.elements and column.is_read:
        return Guess(name, "ignore", "all lists are empty")
    length = f"lists of up to {column.longest:,}" if column.is_read else "lists"
    if names.SEQUENCES & set(names.words(name)):
        return Guess(name, "sequence", f"{length}, with the name of a history (its order counts)")
    return Guess(name, "ids", length, sure=column.longest <= 20)


def _vector(name: str, column: ColumnProfile) -> Guess:
    if not column.is_read:
        return Guess(name, "ignore", "lists of numbers, whose length the footers do not tell")
    if column.elements != column.longest * column.known or not column.fractions:
        why = (
            "lists of numbers that differ in length, have nulls or NaN, or are all whole; if they stand beside another list, see "
            "`weights` or `sequence_dense`"
        )
        return Guess(name, "ignore", why, sure=False)
    return Guess(name, "vector", f"{column.longest:,} numbers in each row")


def _text(name: str, column: ColumnProfile, rows: int) -> Guess:
    if names.is_user(name) and column.distinct >= _FEW_USERS:
        return Guess(name, "group", f"the user, by its name; {_different(column, 'value')}")
    if names.is_request(name) or _is_key(column, rows):
        return Guess(name, "ignore", f"{_different(column, 'value')}: it names a row or a request")
    if column.text_bytes / max(1, column.known) > _TEXT_BYTES and column.distinct > rows / 10:
        return Guess(name, "ignore", "free text, which no feature reads", sure=False)
    if names.SCENARIOS & set(names.words(name)) and 2 <= len(scenario_values(column)) <= _MOST_SCENARIOS:
        return Guess(name, "scenario", f"{column.distinct} values, with the name of a scenario")
    return Guess(name, "id", _different(column, "string"))


def _number(name: str, column: ColumnProfile, rows: int) -> Guess:
    if column.not_finite:
        return Guess(
            name, "ignore", f"{count_of(column.not_finite, 'value')} NaN or infinite: write null where it is unknown"
        )
    doubles = column.kind == "float" and not column.fractions and column.is_read  # as pandas writes integers with nulls
    if column.kind == "integer" or (doubles and (names.is_user(name) or set(names.words(name)) & names.CODES)):
        return _integer(name, column, rows)
    if column.kind == "flag" or is_binary(column):
        return Guess(name, "dense", f"true or false, {_share(column)}")
    span = f"{_number_text(column.numbers.low)} to {_number_text(column.numbers.high)}"
    return Guess(name, "dense", span if column.numbers.count else "a number")


def _integer(name: str, column: ColumnProfile, rows: int) -> Guess:
    found = set(names.words(name))
    distinct = _different(column, "integer")
    if names.is_user(name) and column.distinct >= _FEW_USERS:
        return Guess(name, "group", f"the user, by its name; {distinct}")
    packed = column.distinct / max(1.0, column.numbers.high - column.numbers.low + 1)
    if names.is_request(name) or (_is_key(column, rows) and (names.is_row_key(name) or packed > _KEY_SHARE)):
        return Guess(name, "ignore", f"{distinct}: it names a row or a request")
    if is_binary(column):
        return Guess(name, "dense", f"0 and 1, {_share(column)}")
    if names.SCENARIOS & found and 2 <= len(scenario_values(column)) <= _MOST_SCENARIOS:
        return Guess(name, "scenario", f"{column.distinct} values, with the name of a scenario")
    span = f"{column.numbers.low:.0f} to {column.numbers.high:.0f}"
    if column.distinct <= _FEW_STEPS and names.QUANTITIES & found and not names.HISTORY & found:
        return Guess(name, "id", f"{distinct}: steps of a quantity", sure=False)
    if names.HISTORY & found or names.QUANTITIES & found:
        return Guess(name, "dense", f"{span}, with the name of a quantity")
    if names.CODES & found:
        return Guess(name, "id", f"{distinct}, with the name of a code")
    if column.numbers.low < 0:
        return Guess(name, "dense", span, sure=False)
    if column.distinct <= _FEW_CATEGORIES:
        return Guess(name, "id", distinct, sure=column.distinct <= 10)
    # Codes are numbered one after another; quantities thin out
    if column.distinct > _MANY_CATEGORIES and packed > 0.3:
        return Guess(name, "id", f"{distinct} of {span}", sure=False)
    return Guess(name, "dense", span, sure=False)


def scenario_values(column: ColumnProfile) -> list[str | int]:
    """The values that a scenario may have, the most frequent first; empty, if there are too many."""
    values: Mapping[Any, int] = column.values or {}
    fitting = [
        v for v in values if (isinstance(v, int) or (isinstance(v, str) and v)) and str(v) not in ("all", "other")
    ]
    return sorted(fitting, key=lambda v: (-values[v], str(v)))


def _is_key(column: ColumnProfile, rows: int) -> bool:
    return rows >= 1000 and column.is_read and column.distinct > _KEY_SHARE * rows


def _is_unix_time(column: ColumnProfile) -> bool:
    """Whether all values lie between 2000 and 2100 in seconds, milliseconds, microseconds or nanoseconds."""
    low, high = column.numbers.low, column.numbers.high
    return any(946_684_800 * unit <= low and high <= 4_102_444_800 * unit for unit in (1, 10**3, 10**6, 10**9))


def _share(column: ColumnProfile) -> str:
    two = named_values(column)
    assert column.values is not None
    assert two is not None
    if column.values.total() < column.known:  # of the footers alone
        return "by the files' footers"
    shown = two[0] if is_binary(column) else f"`{two[0]}`"
    return f"{column.values[two[0]] / max(1, column.known):.2%} of them {shown}"


def _different(column: ColumnProfile, noun: str) -> str:
    return count_of(column.distinct, f"different {noun}") if column.is_read else f"{noun}s"


def _number_text(value: float) -> str:
    return f"{value + 0.0:.4g}"


def _one_group(found: dict[str, Guess], profile: Profile) -> dict[str, Guess]:
    """Only the likeliest user is the group; the others are IDs like any."""
    users = sorted((n for n, g in found.items() if g.role == "group"), key=lambda n: (names.user_rank(n), len(n)))
    others = {name: Guess(name, "id", _different(profile.columns[name], "value")) for name in users[1:]}
    return {name: others.get(name, guess) for name, guess in found.items()}


def _unnamed_labels(profile: Profile, found: dict[str, Guess]) -> dict[str, Guess]:
    """Without any label by name: the columns of 0 and 1, if they are few."""
    binary = [n for n, c in profile.columns.items() if found[n].role in ("dense", "id") and is_binary(c)]
    if not 1 <= len(binary) <= 3:
        return {}
    why = "0 and 1, and no other column has the name of an event"
    return {name: Guess(name, "label", f"{why} ({_share(profile.columns[name])})", sure=False) for name in binary}


def _truths(found: dict[str, Guess], profile: Profile) -> dict[str, Guess]:
    """Columns named as the mean of a label are its expectation, not a feature."""
    labels = {tuple(names.words(n)) for n, g in found.items() if g.role == "label"}
    amounts = {tuple(names.words(n)) for n in profile.columns if names.AMOUNTS & set(names.words(n))}
    return {
        n: replace(g, role="truth", why="looks like the expectation of a label, by its name")
        if g.role == "dense"
        and names.words(n)[0] in ("mean", "expected")
        and tuple(names.words(n)[1:]) in labels | amounts
        else g
        for n, g in found.items()
    }


def _only_first(found: dict[str, Guess], profile: Profile) -> dict[str, Guess]:
    """Only one column is the scenario, the time and the weight; of several the first, and of times the likeliest."""
    for role in ("scenario", "time", "weight"):
        of_role = [n for n, g in found.items() if g.role == role]
        if role == "time":
            of_role.sort(key=lambda n: (profile.columns[n].nulls > 0, names.time_rank(n)))
        for name in of_role[1:]:
            other: Role = "id" if role == "scenario" else "ignore" if role == "time" else "dense"
            found[name] = replace(found[name], role=other, why=f"{found[name].why}, but another column is likelier")
    return found


def find_leaks(profile: Profile, found: dict[str, Guess]) -> dict[str, Guess]:
    """Features that tell a label almost perfectly, as what is only known after the event does: amounts of an event become its
    labels, the others are left out."""
    leaks: dict[str, Guess] = {}
    labels = [n for n, g in found.items() if g.role == "label" and event_values(profile.columns[n])]
    for label in labels:
        truth = event_labels(profile, label)
        seen = ~np.isnan(truth)
        if min((truth[seen] == 1).sum(), (truth[seen] == 0).sum()) < _FEW_POSITIVES:
            continue
        for name in _scored(found):
            if name in leaks:
                continue
            area = _area(profile, name, truth, seen)
            if area >= _LEAK_AUC:
                column = profile.columns[name]
                amount = names.is_amount(name, surely=False) and column.kind in ("integer", "float")
                amount = amount and column.distinct > 2
                if amount and column.numbers.low >= 0:
                    leaks[name] = Guess(name, "label", f"a number that follows `{label}` (AUC {area:.3f})", sure=False)
                else:
                    leaks[name] = Guess(
                        name,
                        "ignore",
                        f"it tells `{label}` almost perfectly (AUC {area:.3f}): known only afterwards?",
                        sure=False,
                    )
    return {name: leaks.get(name, guess) for name, guess in found.items()}


def _scored(found: dict[str, Guess]) -> Iterable[str]:
    roles = ("id", "ids", "sequence", "vector", "dense", "scenario", "bias", "group")
    return (name for name, guess in found.items() if guess.role in roles)


def column_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of the sample as float64, NaN for null."""
    return column.cast(pa.float64(), safe=False).to_numpy()


def _area(profile: Profile, name: str, truth: np.ndarray, seen: np.ndarray) -> float:
    """How well a column tells a label by itself, as an AUC: by where it is null, by its numbers, or by the mean label of its
    values among the other rows."""
    column, kind = profile.sample.column(name).combine_chunks(), profile.columns[name].kind
    labels = truth[seen]
    areas = [0.5]
    if column.null_count:
        areas.append(_either(_auc(column.is_null().to_numpy(zero_copy_only=False)[seen].astype(float), labels)))
    if kind in ("flag", "integer", "float"):
        values = column_numbers(pa.chunked_array([column]))
        areas.append(_either(_auc(np.where(np.isnan(values), -np.inf, values)[seen], labels)))
    if not kind.startswith("list of "):
        coded = column.dictionary_encode("encode")
        if len(coded.dictionary) <= _MOST_WORDS:
            index = coded.indices.to_numpy(zero_copy_only=False)[seen]
            sums, counts = np.bincount(index, labels), np.bincount(index)
            # Without the row itself, a rare value's mean is below its positives: that must not count the other way round
            areas.append(_auc((sums[index] - labels + labels.mean()) / counts[index], labels))
    return max(areas)


def _either(area: float) -> float:
    return max(area, 1 - area)


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs of a positive and a negative that the scores order rightly; ties count half."""
    _, rank, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    ranks = middle[rank]
    positives = labels == 1
    n, m = positives.sum(), (~positives).sum()
    return float((ranks[positives].sum() - n * (n + 1) / 2) / (n * m))
