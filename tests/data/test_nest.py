"""Flat logs become nested ones: every row once, one schema, the requests of a user together."""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymtl.cli.main import run_command
from raymtl.config.load import load_config
from raymtl.data.nest import run
from raymtl.data.nest.equal import varies
from raymtl.data.nest.tasks import _known_microseconds
from raymtl.data.nested import stored_columns
from raymtl.data.units import plan_input
from raymtl.errors import ConfigError, DataError, UserError
from raymtl.init.nesting import Result, choose_keys, nest_logs, open_source
from raymtl.synth import SynthSpec, write_logs
from tests.helpers.small_data import write_file

DAYS = ("2026-01-01", "2026-01-02")


def flat_rows(seed: int, requests: int, odd: bool = False) -> list[dict[str, Any]]:
    """Rows of requests of 1 to 7 rows, mixed; one of seven has no request, and one of five users is unknown."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(requests):
        user = random.integers(20)
        shared = {
            "request_id": f"r{seed}-{number}",
            "user_id": None if user % 5 == 0 else int(user),
            "ts": int(random.integers(10**6)),
            "hist": None if number % 6 == 0 else random.integers(9, size=number % 4).tolist(),
            "query": {"words": ["a", None] if number % 2 else [], "n": float(number % 3)},
            "sometimes": 1.5,
        }
        for n in range(random.integers(1, 8)):
            own = {"item": int(random.integers(50)), "tags": [n, 2], "click": n % 2, "position": n + 1}
            rows.append({**shared, **own, "sometimes": n if odd else shared["sometimes"]})
        if number % 7 == 0:
            for row in rows[-2:]:
                row["request_id"] = None
    return [rows[n] for n in random.permutation(len(rows))]


def write_flat(root: Path, files: int = 3, **options: Any) -> dict[str, list[dict[str, Any]]]:
    """Two days of files, of which only in the second one `sometimes` varies within requests; the rows by day."""
    written = {}
    for number, day in enumerate(DAYS):
        written[day] = flat_rows(number, 61, odd=number == 1)
        for n in range(files):
            write_file(root, pa.Table.from_pylist(written[day][n::files]), day, f"{n}.parquet", group_rows=17)
    return written


def nested(source: Path, out: Path, request: str | None = None, user: str | None = None, forced: tuple = ()) -> Result:
    logs = open_source(str(source))
    keys = choose_keys(logs, request, user)
    seen: list[tuple[int, int]] = []
    result = nest_logs(
        logs,
        str(out),
        keys,
        forced,
        address=None,
        on_read=lambda done, total: seen.append((done, total)),
        on_written=lambda done, total: seen.append((done, total)),
        user_given=user is not None,
    )
    assert seen[-1] == (result.nested.rows, result.nested.rows)
    return result


def files_of(out: Path, day: str) -> list[list[dict[str, Any]]]:
    return [pq.read_table(f, partitioning=None).to_pylist() for f in sorted((out / f"ds={day}").iterdir())]


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=repr)


@pytest.mark.ray
def test_every_row_is_in_its_request_and_users_stand_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_BLOCK_BYTES", 4_000)  # several buckets, and several files
    want = write_flat(tmp_path / "flat")
    (tmp_path / "flat" / "ds=2026-01-03").mkdir()
    pq.write_table(pa.table({"request_id": pa.array([], pa.string())}), tmp_path / "flat/ds=2026-01-03/0.parquet")
    result = nested(tmp_path / "flat", tmp_path / "out")
    assert vars(result.nested.keys) == {
        "request": "request_id",
        "user": "user_id",
        "time": None,
        "position": "position",
    }
    assert result.nested.of_requests == ("request_id", "user_id", "ts", "hist", "query")
    assert result.nested.of_impressions == ("sometimes", "item", "tags", "click", "position")
    assert result.nested.rows == sum(map(len, want.values()))
    assert result.config is None
    for day in DAYS:
        files = files_of(tmp_path / "out", day)
        assert len(files) > 1
        requests = [request for file in files for request in file]
        rows = [{**r, **i} for r in requests for i in r["impressions"]]
        for row in rows:
            row.pop("impressions")
        assert in_order(rows) == in_order([{name: row[name] for name in rows[0]} for row in want[day]])
        named = [r["request_id"] for r in requests if r["request_id"] is not None]
        assert len(named) == len(set(named))
        assert all(len(r["impressions"]) == 1 for r in requests if r["request_id"] is None)
        for request in requests:
            positions = [i["position"] for i in request["impressions"]]
            assert positions == sorted(positions)
        runs = defaultdict(int)
        users = [r["user_id"] for r in requests]
        for before, user in zip([object(), *users], users, strict=False):
            runs[user] += user != before
        assert {n for user, n in runs.items() if user is not None} == {1}
        assert runs[None] > 1  # of unknown users, not one long run
    assert files_of(tmp_path / "out", "2026-01-03") == [[]]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"ds=2026-01-0{n}" for n in (1, 2, 3)]


@pytest.mark.ray
def test_the_configuration_of_the_logs_is_written_for_the_nested_ones(tmp_path: Path) -> None:
    spec = SynthSpec(days=2, rows_per_day=2_003, users=50, items=40)
    write_logs(spec, str(tmp_path / "flat"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_unfinished").write_text("of an interrupted call")
    (tmp_path / "out" / "ds=2026-01-01").mkdir()
    (tmp_path / "out" / "ds=2026-01-01" / "part-9.parquet").write_text("half")
    result = nested(tmp_path / "flat", tmp_path / "out")
    config = load_config(result.config)
    assert config.data.impressions == "impressions"
    assert config.data.path == str(tmp_path / "out")
    assert {"user_id", "hist_items", "hour_of_day"} <= set(result.user_side) == set(config.user_features())
    assert not {"item_id", "position", "tags"} & set(result.user_side)
    assert {"buy_mature", "click", "p_click"} <= set(result.nested.of_impressions)  # by their use
    for part in ("train", "eval"):
        assert plan_input(config, part).rows == 2_003
    with pytest.raises(ConfigError, match="is not empty"):
        nested(tmp_path / "flat", tmp_path / "out")
    with pytest.raises(ConfigError, match="lies in SRC"):
        nested(tmp_path / "flat", tmp_path / "flat" / "out")
    with pytest.raises(DataError, match="nested already"):
        open_source(str(tmp_path / "out"))


@pytest.mark.ray
def test_the_command_says_what_it_chose_and_what_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat, out = tmp_path / "flat", tmp_path / "out"
    write_flat(flat, files=1)
    assert run_command(["convert", "--nest", str(flat), str(out), "--impression", "query", "--json"]) == 0
    *lines, facts = capsys.readouterr().out.splitlines()
    said = " ".join(" ".join(lines).split())
    assert "request request_id, user user_id, position position" in said
    assert "set `data.impressions: impressions`, and `side: user`" in said
    assert json.loads(facts)["of_requests"] == ["request_id", "user_id", "ts", "hist"]
    assert run_command(["convert", "census", "--nest", str(flat), str(out)]) == 64
    assert run_command(["convert", "--request", "request_id"]) == 64
    assert run_command(["convert", "--nest", str(out)]) == 2
    assert run_command(["convert", "--nest", str(flat), str(out)]) == 64  # not empty


@pytest.mark.parametrize("times", [["2026-01-01", None], [1.5, float("nan")], [1, None], [None, None]])
def test_an_unknown_time_counts_as_the_first(times: list[Any]) -> None:
    array = pa.array(times)
    if not pa.types.is_integer(array.type) and not pa.types.is_floating(array.type):
        array = array.cast(pa.timestamp("ns"))
    found = _known_microseconds(array)
    assert found.dtype == np.int64
    assert found[1] == 0
    assert bool(found[0]) == (times[0] is not None)


@pytest.mark.ray
def test_columns_that_cannot_nest_the_logs(tmp_path: Path) -> None:
    write_flat(tmp_path / "flat", files=1)
    for name, (options, sentence) in {
        "a": (
            {"request": "item", "user": "position"},
            "--user: column `position` varies within the requests of `item`",
        ),
        "b": ({"request": "hist"}, "--request: column `hist` has type list"),
        "c": ({"user": "nobody"}, "has no column `nobody`"),
        "d": ({"forced": ("request_id",)}, "column `request_id` is the request's"),
    }.items():
        with pytest.raises(UserError, match=sentence):
            nested(tmp_path / "flat", tmp_path / name, **options)
    alone = pa.table({"page": [1, 2, 3], "session_id": [4, 4, 5], "click": [0, 1, 0]})
    write_file(tmp_path / "alone", alone)
    with pytest.raises(ConfigError, match="several columns that may name the request: page, session_id"):
        nested(tmp_path / "alone", tmp_path / "e")
    with pytest.raises(DataError, match="no two rows of a day have the same `page`"):
        nested(tmp_path / "alone", tmp_path / "e", request="page")
    write_file(tmp_path / "same", pa.table({"req": [1, 1, 2], "click": [0, 0, 1]}))
    with pytest.raises(DataError, match=r"no column varies within the requests of `req`; name those .* --impression"):
        nested(tmp_path / "same", tmp_path / "f")
    assert nested(tmp_path / "same", tmp_path / "g", forced=("click",)).nested.of_impressions == ("click",)


def test_equality_of_any_type() -> None:
    same = [
        [1, 1],
        [None, None],
        [float("nan"), float("nan")],
        ["a", "a"],
        [[1, None, 2]] * 2,
        [[], []],
        [[[1], []]] * 2,
        [{"a": None, "b": [1]}] * 2,
        [b"x", b"x"],
    ]
    different = [
        [1, 2],
        [1, None],
        [0.0, float("nan")],
        ["a", "b"],
        [[1, None, 2], [1, 3, 2]],
        [[], None],
        [[[1], []], [[], [1]]],
        [{"a": None, "b": [1]}, {"a": None, "b": [2]}],
        [[1], [1, 1]],
    ]
    for values, expected in [*((v, False) for v in same), *((v, True) for v in different)]:
        array = pa.array([*values[:1], *values, *values[1:]])[1:-1]  # with an offset
        assert varies(array, np.array([True, False])) is expected, values
        assert not varies(array, np.array([True, True]))


@pytest.mark.parametrize("names", [("list", "element"), ("list", "item"), ("bag", "array"), ("array",)])
def test_the_levels_of_lists_have_other_names_in_other_writers(names: tuple[str, ...]) -> None:
    """pyarrow, DuckDB and Spark; old pyarrow; Spark's legacy format; parquet-avro with one level."""
    level = ".".join(names)
    struct = pa.struct(
        {"list": pa.list_(pa.int8()), "click": pa.int8(), "where": pa.struct({"x": pa.int8(), "y": pa.int8()})}
    )
    schema = pa.schema({"user": pa.int8(), "old": pa.list_(pa.int8()), "shown": pa.list_(struct), "age": pa.int8()})
    of_rows = [f"shown.{level}.{name}" for name in (f"list.{level}", "click", "where.x", "where.y")]
    paths = ["user", f"old.{level}", *of_rows, "age"]
    columns = SimpleNamespace(column=lambda n: SimpleNamespace(path=paths[n]), to_arrow_schema=lambda: schema)
    metadata: Any = SimpleNamespace(num_columns=len(paths), schema=columns)
    wanted = ["click", "where", "age", "old"]
    assert stored_columns(metadata, ["shown"], wanted) == ["old", "age", *of_rows[1:]]
    assert stored_columns(metadata, ["shown"], ["user"]) == ["user", of_rows[0]]  # tells the lengths
    assert stored_columns(metadata, ["old"], ["old", "user"]) == ["user", paths[1]]
    assert stored_columns(metadata, ["old"], ["age"]) == ["age", paths[1]]


@pytest.mark.parametrize(("path", "words"), [("nowhere", "does not exist"), ("file", "is a file")])
def test_a_source_that_is_no_folder_is_named(tmp_path, path, words):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"SOURCE `{tmp_path}/{path}` {words}; pass the folder with the logs"):
        open_source(str(tmp_path / path))
