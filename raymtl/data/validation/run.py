"""`raymtl check`: one pass over the data with Ray Data, which counts every broken value and computes the figures."""

import pickle
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from raymtl.config.features import Tableless
from raymtl.config.root import Config
from raymtl.data.contract import held_ids, id_words, mixed_problems, plain_types, required_columns, schema_faults
from raymtl.data.lakehouse.tables import with_snapshots
from raymtl.data.partitions import Layout
from raymtl.data.roots import Roots
from raymtl.data.scan import scan
from raymtl.data.source import evaluated_training_files
from raymtl.data.units import Footer, Fragment, find_footers, make_units, never_there, with_rows
from raymtl.data.validation.report import CheckReport, Findings, PartReport, SchemaDifference
from raymtl.data.validation.rules import evaluate_rules
from raymtl.data.validation.scanner import Scanner
from raymtl.data.validation.statistics import Partial
from raymtl.data.validation.summarize import build_report
from raymtl.data.vocabulary import check_id_files
from raymtl.errors import ConfigError, DataError
from raymtl.words import count_of

_TASK_ROWS = 1_000_000
_TASKS_PER_CPU = 4
_SKETCH_BYTES = 16_384
_SHOWN = 3

Progress = Callable[[int, int], None]
"""Called with the rows done and the total rows."""


def check_data(
    config: Config,
    part: Literal["train", "eval", "both"] = "both",
    read_tasks: int = 4,
    progress: Progress | None = None,
    not_final: Container[str] = (),
) -> CheckReport:
    """Read every row of the training days, the evaluation days or both once, on `read_tasks` CPUs of the connected Ray cluster.

    `not_final` are tasks whose labels may still be missing, which is no problem.

    All faults of the data are in the report. Raises DataError only if there is no data: a data set that does not exist, or an
    evaluation that is not configured.
    """
    start = time.monotonic()
    if part == "eval" and config.data.eval is None:
        raise DataError("data.eval is not set; set data.eval.start and data.eval.end to the days to evaluate on")
    config = with_snapshots(config)
    names = [p for p in ("train", "eval") if part in (p, "both") and (p == "train" or config.data.eval is not None)]
    summaries = {name: _read_footers_of(config, name) for name in names}
    total = sum(summary.report.rows for summary in summaries.values())
    done = 0
    for name, summary in summaries.items():
        merged = Partial()
        for partial, rows in _scan(config, summary, read_tasks):
            merged.merge(partial)
            done += rows
            if progress is not None:
                progress(done, total)
        build_report(summary.report, merged, config)
        summary.report.problems += [merged.unreadable[path] for path in sorted(merged.unreadable)]
        evaluate_rules(
            summary.report, config, name, summary.largest_row_group, tables=name == names[0], not_final=not_final
        )
    reports = {name: summary.report for name, summary in summaries.items()}
    return CheckReport(reports, _across(config, summaries), round(time.monotonic() - start, 3))


@dataclass
class _FooterSummary:
    """The facts from the file names and footers of one part."""

    root: str
    report: PartReport
    footers: list[Footer]
    uses: dict[int, frozenset[str]]
    """By `id` of the schema, the keys whose columns it has with a fitting type."""

    @property
    def largest_row_group(self) -> int:
        return max((rows for f in self.footers for rows in f.row_group_rows), default=0)


def _read_footers_of(config: Config, part: str) -> _FooterSummary:
    data = config.data
    evaluation = part == "eval"
    days = data.eval if evaluation else data.train
    assert days is not None
    roots = Roots.open(data.roots_of(part))
    report = PartReport(path=", ".join(data.roots_of(part)), days=str(days))
    found = roots.find_files(days, Layout.of(config, part))
    footers, broken = find_footers(roots.filesystem, found.files)
    report.problems += found.problems + broken
    report.notes += found.notes + never_there(with_rows(footers))
    report.snapshot = found.snapshot
    report.files, report.bytes = len(found.files), sum(f.size for f in found.files)
    report.row_groups = sum(len(f.row_group_rows) for f in footers)
    report.units = len(make_units(footers, data.unit_rows))
    for footer in footers:
        rows, day = sum(footer.row_group_rows), str(footer.file.day)
        report.rows += rows
        report.rows_by_day[day] = report.rows_by_day.get(day, 0) + rows
    report.rows_by_day = dict(sorted(report.rows_by_day.items()))
    summary = _FooterSummary(roots.path, report, footers, {})
    _schemas(config, summary, evaluation)
    return summary


def _schemas(config: Config, summary: _FooterSummary, evaluation: bool) -> None:
    """Report columns that are missing or have a wrong type, and those that differ between files."""
    report, columns = summary.report, required_columns(config)
    files: dict[int, list[str]] = {}
    schemas: dict[int, pa.Schema] = {}
    footers = with_rows(summary.footers)
    for footer in footers:
        files.setdefault(id(footer.schema), []).append(footer.file.path)
        schemas[id(footer.schema)] = footer.schema
    faulty: dict[tuple[str, bool], list[str]] = {}
    for key, schema in schemas.items():
        faults = schema_faults(schema, config, columns)
        summary.uses[key] = frozenset(c.used_by for c in columns) - {c.used_by for c, _ in faults}
        for column, fault in faults:
            faulty.setdefault((fault, column.training or evaluation), []).extend(files[key])
    for (fault, needed), paths in faulty.items():
        where = paths[0] if len(paths) == 1 else f"{paths[0]} and {count_of(len(paths) - 1, 'more file')}"
        (report.problems if needed else report.notes).append(f"{where}: {fault}")
    read = [c for c in columns if c.training or evaluation]
    report.problems += mixed_problems([(f.file.path, f.schema) for f in footers], read)
    report.types = plain_types(schemas.values(), columns)
    report.schema = _differences(
        {key: (schemas[key], paths) for key, paths in files.items()}, {c.name for c in columns}
    )
    alike: dict[str, list[str]] = {}
    for difference in report.schema:
        found = [f"{kind} in {count_of(n, 'file')} (first {path})" for kind, (n, path) in difference.types.items()]
        found += [f"missing in {difference.missing} (first {difference.first_missing})"] if difference.missing else []
        use = "" if difference.used else ", unused by the configuration"
        alike.setdefault(f"{use}: {'; '.join(found)}", []).append(f"`{difference.column}`")
    for how, names in alike.items():
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        one = len(names) == 1
        report.notes.append(
            f"column{'' if one else 's'} {', '.join(names[:_SHOWN])}{more} differ{'s' if one else ''} between files{how}"
        )


def _differences(schemas: dict[int, tuple[pa.Schema, list[str]]], used: set[str]) -> list[SchemaDifference]:
    names = list(dict.fromkeys(name for schema, _ in schemas.values() for name in schema.names))
    differences = []
    for name in names:
        types: dict[str, tuple[int, str]] = {}
        without: list[str] = []
        for schema, paths in schemas.values():
            if name not in schema.names:
                without += paths
                continue
            kind = str(schema.types[schema.names.index(name)])
            count, first = types.get(kind, (0, paths[0]))
            types[kind] = (count + len(paths), min(first, paths[0]))
        if len(types) > 1 or without:
            differences.append(
                SchemaDifference(name, name in used, types, len(without), min(without) if without else None)
            )
    return differences


def _scan(config: Config, summary: _FooterSummary, read_tasks: int) -> Iterator[tuple[Partial, int]]:
    """Statistics of chunks of the data, one per finished task, with the rows of each chunk."""
    task_rows = min(_TASK_ROWS, max(config.data.block_rows, summary.report.rows // (_TASKS_PER_CPU * read_tasks)))
    of_file = {f.file.path: (str(f.file.day), summary.uses[id(f.schema)]) for f in with_rows(summary.footers)}
    tasks = [[(f, *of_file[f.path]) for f in unit.fragments] for unit in make_units(summary.footers, task_rows)]
    if tasks:
        # in order: the same data, the same report
        scanner = Scanner(config)
        bodies = [_ScanTask(summary.root, scanner, chunks) for chunks in tasks]
        for table in scan("Check", bodies, 8 * _SKETCH_BYTES, read_tasks, config.data.read_labels, in_order=True):
            for pickled, rows in zip(table.column("partial"), table.column("rows").to_pylist(), strict=True):
                yield pickle.loads(pickled.as_buffer()), rows


_FileChunk = tuple[Fragment, str, frozenset[str]]


class _ScanTask:
    """The body of one reading task; it yields one row with the pickled statistics of its fragments."""

    def __init__(self, root: str, scanner: Scanner, chunks: list[_FileChunk]):
        self._root, self._scanner, self._chunks = root, scanner, chunks

    def __call__(self) -> Iterable[pa.Table]:
        partial = Partial()
        for fragment, day, uses in self._chunks:
            partial.merge(self._scanner.scan(self._root, fragment, day, uses))
        rows = sum(f.rows for f, _, _ in self._chunks)
        yield pa.table({"partial": pa.array([pickle.dumps(partial)], pa.binary()), "rows": [rows]})


def _across(config: Config, summaries: dict[str, _FooterSummary]) -> Findings:
    """Findings that need a comparison of the parts, or of the features of a table."""
    findings = Findings()
    data = config.data
    if "train" in summaries and "eval" in summaries:
        schemas = [(f.file.path, f.schema) for summary in summaries.values() for f in with_rows(summary.footers)]
        within = {p for summary in summaries.values() for p in summary.report.problems}
        mixed = mixed_problems(schemas, [c for c in required_columns(config) if c.training])
        findings.problems += [
            p for p in mixed if not any(w.split(" holds ")[0] == p.split(" holds ")[0] for w in within)
        ]
        findings.problems += evaluated_training_files(
            *([f.file for f in summaries[part].footers] for part in ("train", "eval"))
        )
        if set(data.roots_of("train")) & set(data.roots_of("eval")) and data.eval is not None:
            shared = sorted(set(data.train.days()) & set(data.eval.days()))
            if shared:
                findings.warnings.append(
                    f"data.eval: the day {shared[0]} is also a training day, which makes the metrics "
                    f"too good; evaluate on other days"
                )
    schemas_in_use = {id(f.schema): f.schema for s in summaries.values() for f in with_rows(s.footers)}
    try:
        check_id_files(config, held_ids(config, schemas_in_use.values()))
    except (DataError, ConfigError) as error:
        findings.problems.append(str(error))
    for table in config.tables:
        lookups = [n for n, f in config.features.items() if not isinstance(f, Tableless)]
        features = [n for n in lookups if config.table_of(n) == table]
        columns = [c for c in required_columns(config) if c.used_by.removeprefix("features.") in features]
        words = id_words(schemas_in_use.values(), columns)
        holders = {
            word: next(use for use, found in words.items() if word in found) for word in set().union(*words.values())
        }
        if len(holders) > 1:
            held = " and ".join(f"{word}s ({use})" for word, use in sorted(holders.items()))
            findings.warnings.append(
                f"tables.{table}: its features hold {held}, so they never look up the same row; use one type"
            )
    return findings
