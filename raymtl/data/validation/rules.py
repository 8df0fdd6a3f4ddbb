"""The rules of `raymtl check`: which figures violate the contract, and which are unusual enough for a warning.

Every sentence names the configuration key or the file, the figure, and the remedy.
"""

import math
import statistics
from collections.abc import Container

from raymtl.config.features import Scaled, columns_of
from raymtl.config.root import Config
from raymtl.config.tasks import Task
from raymtl.data.contract import WEIGHTS
from raymtl.data.requests import are_scattered
from raymtl.data.rules import where_observed
from raymtl.data.validation.report import ColumnReport, LabelRate, PartReport, TableReport
from raymtl.words import some_of

_MANY_NULLS, _MANY_CLIPPED, _EMPTY_BUCKETS = 0.5, 0.5, 0.5
_SHARED_ROWS, _FEWER_SHARED = 0.40, 0.10
_ODD_SCALE = 10.0
_UNLISTED = 0.01
_ORDER_BROKEN = 0.5
_RATE_JUMP, _REAL_JUMP, _STANDARD_ERRORS = 1.5, 0.25, 6.0
_DAY_JUMP = 3.0
_MANY_ZEROS = 0.5
_FEW_ROWS_PER_FILE, _MANY_FILES = 20_000, 50
_LONG_ROW_GROUP = 4
_SHOWN = 3
_FEW_ROWS_PER_REQUEST = 1.5


def evaluate_rules(
    report: PartReport,
    config: Config,
    part: str,
    largest_row_group: int,
    tables: bool,
    not_final: Container[str] = (),
) -> None:
    """Add the problems, warnings and notes for the figures of a part.

    `tables`: also check the tables' sizes; `not_final`: tasks whose labels may still be missing.
    """
    _broken_values(report)
    if not report.rows:
        report.problems.append(f"there are no rows on {report.days}; write the days again or choose others")
        return
    _layout(report, config, largest_row_group)
    _columns(report, config, part, tables)
    for name, task in config.active_tasks().items():
        if name in not_final and name in report.tasks and not report.tasks[name].all.observed:
            report.notes.append(f"tasks.{name}: no label is observed yet; the labels of these days are not final")
        elif name in report.tasks:
            _task(report, name, task, part, config)
    _funnel(report, config.multiplies_labels())
    _late(report)
    _scenario(report)
    _requests(report, config)
    _others(report)


def _broken_values(report: PartReport) -> None:
    for broken in report.broken:
        place = broken.places[0]
        where = f" in {broken.files} files" if broken.files > 1 else ""
        report.problems.append(
            f"column `{broken.column}` ({broken.used_by}): {_n(broken.count, broken.noun)}{where} "
            f"{'is' if broken.count == 1 else 'are'} not {broken.expected}; the first is {place.value} in row {place.row} of "
            f"{place.file}; {broken.remedy}"
        )


def _layout(report: PartReport, config: Config, largest_row_group: int) -> None:
    unit_rows = config.data.unit_rows
    if largest_row_group > _LONG_ROW_GROUP * unit_rows:
        report.warnings.append(
            f"the largest row group has {largest_row_group:,} rows, data.unit_rows is {unit_rows:,}; a row group is never split, "
            f"so checkpoints are that far apart. Write row groups of {min(unit_rows, 1_000_000):,} rows at most"
        )
    if report.files >= _MANY_FILES and report.rows / report.files < _FEW_ROWS_PER_FILE:
        report.warnings.append(
            f"{report.files:,} files have {report.rows // report.files:,} rows each on average: opening them takes longer than "
            f"reading; write files of 100,000 rows or more"
        )
    if empty := [d for d, rows in report.rows_by_day.items() if not rows]:
        report.warnings.append(f"{some_of(empty, 'day')} without any row; write the day again or leave it out")
    days = {d: r for d, r in report.rows_by_day.items() if r}
    if len(days) >= 3:
        usual = statistics.median(days.values())
        odd = [d for d, rows in days.items() if rows * _DAY_JUMP < usual or rows > usual * _DAY_JUMP]
        if odd:
            report.warnings.append(
                f"{some_of(odd, 'day')} with an unusual number of rows: {days[odd[0]]:,} on {odd[0]}, the median day has "
                f"{usual:,.0f}; check that the day is complete and was written once"
            )


class _Alike:
    """Sentences that say the same of several features or tables: up to three of them each, more of them together."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[str, str]]] = {}

    def add(self, subject: str, sentence: str, of_many: str) -> None:
        """Add a sentence about a subject; `of_many` is what it says of many, and alike for all of them."""
        self._found.setdefault(of_many, []).append((subject, sentence))

    def sentences(self) -> list[str]:
        """The sentences to report."""
        return [
            sentence
            for of_many, found in self._found.items()
            for sentence in (
                [f"{subject}: {one}" for subject, one in found]
                if len(found) <= _SHOWN
                else [
                    f"{', '.join(subject for subject, _ in found[:_SHOWN])} and {len(found) - _SHOWN:,} more: {of_many}"
                ]
            )
        ]


def _columns(report: PartReport, config: Config, part: str, tables: bool) -> None:
    """Warnings about features and tables."""
    alike = _Alike()
    # What is constant on the evaluation days alone may well differ on others
    remedy = "leave {} out" if part == "train" else "check the job that writes {}"
    for name, column in report.features.items():
        feature = config.features.get(name)
        if feature is None:  # the weights of one
            if part == "train" and _is_constant(column):
                _equal_weights(alike, name, column, config)
            continue
        _feature(alike, f"features.{name}", column, part, remedy)
        if isinstance(feature, Scaled) and part == "train":
            _dense(alike, f"features.{name}", column, feature)
        if column.buckets is not None and part == "train":
            _buckets(alike, f"features.{name}", column, column.buckets)
    for name, table in report.tables.items() if tables else ():
        _table(alike, name, table)
    report.warnings += alike.sentences()


def _equal_weights(alike: _Alike, name: str, column: ColumnReport, config: Config) -> None:
    """Equal weights tell nothing; the key may go if the vectors are then the same."""
    of = name.removesuffix(WEIGHTS)
    found = f"all weights of column `{column.column}` are {column.min:g}"
    pooling = config.tables[config.table_of(of)].pooling
    if column.column == columns_of(of, config.features)[0]:  # a map cannot be read without its weights
        one, many = (
            "check the job that writes the maps, or write the IDs alone as a list",
            "check the jobs that write them",
        )
    elif column.min == 1 or (pooling == "mean" and column.min):
        one, many = "remove the key", "remove the keys"
    else:
        one, many = "check the job that writes them", "check the jobs that write them"
    alike.add(f"features.{name}", f"{found}; {one}", f"the weights of each of these columns are all equal; {many}")


def _feature(alike: _Alike, subject: str, column: ColumnReport, part: str, remedy: str) -> None:
    rows = max(1, column.rows)
    one, many = remedy.format("the feature" if part == "train" else "it"), remedy.format("them")
    if column.nulls == column.rows:
        alike.add(
            subject,
            f"the column `{column.column}` is null in every row; {one}",
            f"these columns are null in every row; {many}",
        )
    elif column.nulls > _MANY_NULLS * rows:
        alike.add(
            subject,
            f"{column.nulls / rows:.0%} of column `{column.column}` are null; check the job that writes it, or "
            "remove the feature",
            f"more than {_MANY_NULLS:.0%} of each of these columns are null; check the job that writes them, or "
            "remove the features",
        )
    elif part == "train" and _is_constant(column):
        alike.add(
            subject,
            f"the column `{column.column}` has one value only; leave the feature out",
            "each of these columns has one value only; leave the features out",
        )
    if column.empty is not None and column.nulls < column.rows and column.empty == column.rows:
        alike.add(
            subject,
            f"every list of column `{column.column}` is empty; {one}",
            f"every list of these columns is empty; {many}",
        )


def _is_constant(column: ColumnReport) -> bool:
    """Whether all rows hold the same value; lists of one ID differ in their lengths."""
    if column.nulls or column.null_elements or column.kind in ("ids", "map"):
        return False
    return column.distinct == 1 or (column.min is not None and column.min == column.max)


def _dense(alike: _Alike, subject: str, column: ColumnReport, feature: Scaled) -> None:
    if column.clipped and column.clipped > _MANY_CLIPPED * column.numbers:
        alike.add(
            subject,
            f"{column.clipped / column.numbers:.0%} of column `{column.column}` are outside the feature's clip; widen it",
            f"more than {_MANY_CLIPPED:.0%} of each of these columns are outside its clip; widen them",
        )
    if not column.scaled_std or column.scaled_mean is None:
        return
    mean, std = (column.scaled_mean - feature.mean) / feature.std, column.scaled_std / feature.std
    if abs(mean) > _ODD_SCALE or std > _ODD_SCALE or std < 1 / _ODD_SCALE:
        alike.add(
            subject,
            f"the model's input has mean {mean:.3g} and standard deviation {std:.3g} instead of about 0 and 1; "
            f"set mean: {column.scaled_mean:.6g} and std: {column.scaled_std:.6g}",
            "the model's inputs are far from mean 0 and standard deviation 1; set the mean and std of each to its "
            "scaled_mean and scaled_std in `raymtl check --json`",
        )


def _buckets(alike: _Alike, subject: str, column: ColumnReport, buckets: list[int]) -> None:
    empty = buckets.count(0)
    if column.min is not None and empty >= _EMPTY_BUCKETS * len(buckets):
        alike.add(
            subject,
            f"{empty} of the {_n(len(buckets), 'bucket')} have no row (column `{column.column}` goes from {column.min:.6g} "
            f"to {column.max:.6g}); choose edges in that range",
            f"{_EMPTY_BUCKETS:.0%} or more of the buckets of each have no row; choose edges within the range of the columns",
        )


def expected_shared(distinct: int, rows: int) -> float:
    """Expected share of `distinct` hashed IDs that share their row of a table with another one."""
    return -math.expm1((max(1, distinct) - 1) * math.log1p(-1 / rows)) if rows > 1 else float(distinct > 1)


def rows_for(distinct: int, shared: float) -> int:
    """Rows of a `hash` table in which about a share `shared` of the IDs collides, rounded up to two digits."""
    rows = math.ceil((distinct - 1) / -math.log1p(-shared))
    unit = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // unit) * unit


def _table(alike: _Alike, name: str, table: TableReport) -> None:
    if table.shared is not None and table.shared > _SHARED_ROWS:
        alike.add(
            f"tables.{name}",
            f"about {table.distinct:,} distinct IDs on {table.rows:,} rows, so {table.shared:.0%} of them share a "
            f"row with another ID; tables.{name}.rows: {rows_for(table.distinct, _FEWER_SHARED)} brings that to "
            f"{_FEWER_SHARED:.0%}",
            f"more than {_SHARED_ROWS:.0%} of the IDs of each table share a row with another ID; raise their rows "
            "(`raymtl check --json` has the numbers of distinct IDs)",
        )


def _task(report: PartReport, name: str, task: Task, part: str, config: Config) -> None:
    found = report.tasks[name]
    if not found.all.weighed:
        source = where_observed(name, task, config.multiplies_labels(), config.data.weight)
        sentence = f"tasks.{name}: no label is observed ({source})"
        needed = part == "train" and task.base_rate is None
        other = f", or set tasks.{name}.base_rate" if needed and task.traits.has_base_rate else ""
        remedy = f"choose days that have labels{other}"
        (report.problems if needed else report.warnings).append(f"{sentence}; {remedy}")
        return
    if blind := [g for g, rate in found.by_scenario.items() if rate.rows and not rate.observed]:
        report.notes.append(f"tasks.{name}: no label is observed in {some_of(blind, 'scenario')}")
    if found.all.mean in task.traits.labels.only:
        report.warnings.append(
            f"tasks.{name}: all {found.all.observed:,} observed labels are {found.all.mean:.0f}; check the label column "
            f"`{found.column}`, or remove the task"
        )
        return
    zeros = found.all.zeros / found.all.observed
    if task.transform == "log1p" and zeros > _MANY_ZEROS:
        report.warnings.append(
            f"tasks.{name}.transform: {zeros:.1%} of the observed labels are 0, and log1p is for amounts above 0: the model "
            f"would learn how often there is an amount, and little about its size; remove the transform, or train two tasks: "
            f"whether there is an amount (`kind: binary`), and the amount with `given` that task"
        )
    days = {d: rate for d, rate in found.by_day.items() if rate.rows}
    if blind := [d for d, rate in days.items() if not rate.observed]:
        report.warnings.append(
            f"tasks.{name}: {some_of(blind, 'day')} without an observed label; check that the labels have arrived"
        )
    elif few := _few_observed(days):
        share = days[few[0]].observed_share
        report.warnings.append(
            f"tasks.{name}: {some_of(few, 'day')} with far fewer observed labels than the others: {share:.0%} of the rows on "
            f"{few[0]}, {found.all.observed_share:.0%} overall; check that all labels have arrived"
        )
    if barren := [d for d, rate in days.items() if rate.observed and rate.mean == 0]:
        report.warnings.append(
            f"tasks.{name}: {some_of(barren, 'day')} where all observed labels are 0; check that the labels have arrived"
        )
    if jumps := _jumps(found.all, {d: r for d, r in days.items() if d not in barren}, task.traits.is_rate):
        day = jumps[0]
        report.warnings.append(
            f"tasks.{name}: the label rate jumps on {some_of(jumps, 'day')}: {days[day].mean:.4g} on {day}, "
            f"{found.all.mean:.4g} overall; check the labels of that day"
        )


def _few_observed(days: dict[str, LabelRate]) -> list[str]:
    rows, observed = sum(r.rows for r in days.values()), sum(r.observed for r in days.values())
    few = []
    for day, rate in days.items():
        if rows > rate.rows and rate.observed_share < 0.5 * (observed - rate.observed) / (rows - rate.rows):
            few.append(day)
    return few


def _jumps(overall: LabelRate, days: dict[str, LabelRate], is_rate: bool) -> list[str]:
    """Days whose mean label differs from that of the other days by far more than chance, the farthest first."""
    jumps = []
    for day, rate in days.items():
        others = overall.observed - rate.observed
        if not rate.observed or not others or rate.mean is None or overall.mean is None:
            continue
        rest = (overall.mean * overall.observed - rate.mean * rate.observed) / others
        spread = max(0.0, overall.squares - overall.mean**2)
        gap = abs(rate.mean - rest)
        errors = gap / math.sqrt(spread * (1 / rate.observed + 1 / others) or 1)
        if is_rate:
            far = not rest / _RATE_JUMP <= rate.mean <= rest * _RATE_JUMP
        else:
            far = gap > _REAL_JUMP * math.sqrt(spread)
        if far and errors > _STANDARD_ERRORS:
            jumps.append((errors, day))
    return [day for _, day in sorted(jumps, reverse=True)]


def _funnel(report: PartReport, products: bool) -> None:
    for edge in report.funnel:
        if not edge.violations:
            continue
        sentence = (
            f"tasks.{edge.child}.parent: {edge.violations:,} of {edge.positives:,} rows with {edge.child} = 1 have "
            f"{edge.parent} = 0 ({edge.violations / edge.positives:.1%}), first {edge.first}"
        )
        if products:
            report.warnings.append(
                f"{sentence}; the coupler multiplies the labels, so {edge.child} counts as 0 in these rows: check the labels"
            )
        elif edge.violations > _ORDER_BROKEN * edge.positives:
            report.warnings.append(f"{sentence}; this is not a funnel: fix the labels, or set another parent")
        else:
            report.warnings.append(f"{sentence}; in the funnel {edge.parent} precedes {edge.child}: check the labels")


def _late(report: PartReport) -> None:
    for name, share in report.late.items():
        where = f"tasks.{name}.early_labels: {share:.0%} of the labels of 1 came after the cutoff"
        if 0 < share < 1:
            report.notes.append(where)
        else:
            report.warnings.append(
                f"{where}; where labels are final some do, so check that the column holds the time at which the label became 1, "
                "and the time zone"
            )


def _scenario(report: PartReport) -> None:
    found = report.scenario
    if found is None:
        return
    if never := [v for v, rows in found.listed.items() if not rows]:
        report.warnings.append(f"data.scenario.values: {some_of(never, 'value')} that no row has; check the spelling")
    if found.unlisted:
        rows = sum(found.unlisted.values())
        most = ", ".join(f"`{v}` ({n:,})" for v, n in list(found.unlisted.items())[:5])
        target = report.warnings if rows > _UNLISTED * report.rows else report.notes
        target.append(
            f"data.scenario: {_n(rows, 'row')} ({rows / report.rows:.1%}) with values that are not listed count as `other`; the "
            f"most frequent: {most}"
        )


def _others(report: PartReport) -> None:
    weights = [use for use in report.others if use == "data.weight" or use.endswith(".weight_column")]
    for use in weights:
        weight, what = report.others[use], "model" if use == "data.weight" else "task"
        if weight.max == 0 and weight.min == 0:
            report.warnings.append(
                f"{use}: every weight in column `{weight.column}` is 0, so the {what} would learn nothing; fix the weights or "
                f"leave {use} out"
            )
    time = report.others.get("data.timestamp")
    if time is not None and time.off_day:
        report.warnings.append(
            f"data.timestamp: {_n(time.off_day, 'row')} of column `{time.column}` {'is' if time.off_day == 1 else 'are'} more "
            f"than a day outside the partition; check that the rows are in the folder of their day, and that the column holds "
            f"the time"
        )


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _requests(report: PartReport, config: Config) -> None:
    found = report.requests
    if found is None:
        return
    each = found.rows_per_request
    saved = "" if config.data.impressions else f"; nested logs would divide them by {each:.1f}"
    report.notes.append(
        f"{found.requests:,} requests of {each:.1f} rows on average, {found.longest:,} at most; the user's side makes "
        f"{found.user_share:.0%} of the decoded bytes of flat rows{saved}"
    )
    if config.data.request and found.distinct and are_scattered(found.requests, found.distinct):
        report.warnings.append(
            f"the rows of a request do not stand together: about {found.distinct:,} values of `{config.data.request}` make "
            f"{found.requests:,} requests; sort the rows of each file by it, or use `raymtl convert --nest`"
        )
    if each < _FEW_ROWS_PER_REQUEST:
        remedy = "write flat rows, and remove data.impressions" if config.data.impressions else "remove data.request"
        report.warnings.append(
            f"a request has {each:.1f} rows on average, too few to share its user side with profit; {remedy}"
        )
    if found.constant and each >= _FEW_ROWS_PER_REQUEST:
        differ, them = ("differs", "it") if len(found.constant) == 1 else ("differ", "them")
        report.notes.append(
            f"{some_of(found.constant, 'feature')} never {differ} within a request; set `side: user` for {them}, so that "
            f"training reads and computes {them} once per request"
        )
