"""Runs with `map` tables: maps made before the workers start, kept with the run, the same in training and evaluation."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint as dcp

from raymtl.config.features import Init
from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.data import build_id_maps
from raymtl.data.blocks import BlockMaker, Place
from raymtl.data.ids.counts import IdCounts
from raymtl.data.ids.hashing import hash_strings
from raymtl.data.units import Plan, plan_input
from raymtl.embeddings.initialisation import fill_rows
from raymtl.embeddings.names import module_name
from raymtl.errors import CheckpointError, ConfigError
from raymtl.model_store.publish_run import publish_run
from raymtl.model_store.row_ids import read_map
from raymtl.storage.object_store import Store
from raymtl.training import driver
from raymtl.training.checkpoint_folders import last_checkpoint
from raymtl.training.rundir import RunFolder, run_folder
from tests.helpers.run_logs import DAYS, small_config, write_part

SIZES = (150, 90, 201)
ADMIT = {"user": 12, "item": 16}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("logs")
    for n, rows in enumerate(SIZES):
        write_part(root, DAYS[0], f"part-{n}.parquet", rows, seed=n)
    more = {"user": [f"u{n % 60}" for n in range(130)]}  # a third of them are unknown
    write_part(root, DAYS[1], "part-0.parquet", 130, seed=9, **more)
    return root


def configured(logs: Path, output: Path, name: str, **tables: Any) -> Config:
    raw = small_config(logs, output, name, workers=2, epochs=2)
    raw["data"] |= {"unit_rows": 200, "block_rows": 50}
    raw["tables"] |= {
        "user": {"rows": 50, "id_space": "map", "admit_count": ADMIT["user"], "sharding": "row_wise"},
        "item": {"rows": 400, "id_space": "map", "admit_count": ADMIT["item"]},
    }
    for table, more in tables.items():
        raw["tables"][table] = raw["tables"][table] | more
    return config_from_dict(raw)


def looked_up(root: Path, day: str) -> dict[str, Counter[Any]]:
    """How often each ID of a day is looked up in each table, one row after another."""
    counts: dict[str, Counter[Any]] = {"user": Counter(), "item": Counter()}
    for path in (root / f"ds={day}").glob("*.parquet"):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            counts["user"][row["user"]] += 1
            counts["item"].update(i for i in (row["item"], *row["history"][-5:]) if i is not None)
    return counts


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_run_makes_its_maps_and_keeps_them(ray_cluster: None, logs: Path, tmp_path: Path) -> None:
    config = configured(logs, tmp_path, "mapped")
    heard: list[dict[str, Any]] = []
    result = driver.train(config, on_event=heard.append)
    folder = Path(run_folder(config))
    assert result["rows_trained"] == 2 * sum(SIZES)
    seen, later = looked_up(logs, DAYS[0]), looked_up(logs, DAYS[1])
    maps = build_id_maps.saved_maps(config, RunFolder.open(str(folder)))
    maker = BlockMaker(config, evaluation=True, maps=maps)
    raw = pq.read_table(logs / f"ds={DAYS[1]}" / "part-0.parquet", columns=maker.raw_columns(), partitioning=None)
    block = maker(raw, Place("part-0.parquet", 0), 0)
    for table, uses in (("user", ["id:user"]), ("item", ["id:item", "ids:history"])):
        held = {i for i, n in seen[table].items() if n >= ADMIT[table]}
        assert 0 < len(held) < len(seen[table])
        unknown = sum(n for i, n in seen[table].items() if i not in held)
        facts = result["id_maps"][table]
        assert (facts["admitted"]["ids"], facts["below"]["ids"]) == (len(held), len(seen[table]) - len(held))
        assert facts["unknown"]["lookups"] == unknown
        line = (
            f"table {table}: {len(held)} IDs admitted, {len(seen[table]) - len(held)} below {ADMIT[table]} lookups; "
            f"{unknown / seen[table].total():.2%} of the lookups are unknown IDs"
        )
        assert {"note": line} in heard
        columns = [block.column(use).combine_chunks() for use in uses]
        rows = np.concatenate(
            [c.flatten() if use.startswith("ids") else c.drop_null() for c, use in zip(columns, uses, strict=True)]
        )
        assert (rows == 0).sum() == sum(n for i, n in later[table].items() if i not in held)
        assert len(rows) == later[table].total()
        _only_these_rows_were_trained(config, table, maps[table].load().rows, unknown=unknown > 0)

    # Another process measures the same, out of the run's folder
    measured = driver.evaluate(str(folder), overrides=["train.workers=1"], checkpoint=None, address=None)
    for task in ("click", "buy"):
        for key in ("auc", "logloss", "count"):
            assert measured["metrics"]["eval"][task][key] == pytest.approx(
                result["metrics"]["eval"][task][key], abs=1e-6
            )

    # A version of it says who holds which row, so that a daily job can begin with it
    store = Store.open(str(tmp_path / "store"))
    manifest = publish_run(str(folder), store, checkpoint=None, version="first", check_lease=lambda: None)
    for table in ADMIT:
        assert read_map(store, [manifest], table).digest == maps[table].load().digest

    # Going on with the run takes the maps that are there
    user = folder / "maps" / "user.parquet"
    written = os.stat(user).st_mtime_ns
    (folder / "result.json").unlink()
    one = config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})})
    assert driver.train(one)["metrics"]["eval"] == result["metrics"]["eval"]
    assert os.stat(user).st_mtime_ns == written
    with pytest.raises(
        ConfigError, match=r"started with another configuration: tables.user.admit_count was 12 and is now 3"
    ):
        driver.train(configured(logs, tmp_path, "mapped", user={"admit_count": 3}))

    # and never rebuilds them: new maps would assign the trained rows to other IDs
    (folder / "result.json").unlink()
    user.unlink()
    for go_on in (
        lambda: driver.train(config),
        lambda: driver.evaluate(str(folder), overrides=[], checkpoint=None, address=None),
    ):
        with pytest.raises(CheckpointError, match=r"has no ID map for tables.user .*restore the file"):
            go_on()
    assert not user.exists()


def _only_these_rows_were_trained(config: Config, table: str, held: np.ndarray, unknown: bool) -> None:
    """Exactly the rows of the map and the unknown row left their start; that of the unknown row is zeros."""
    folder, spec = last_checkpoint(RunFolder.open(run_folder(config))).path, config.tables[table]
    names = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    (name,) = [n for n in names if n.startswith("model.") and n.endswith(f".{module_name(table)}.weight")]
    weight, start = torch.empty(spec.rows, spec.dim), torch.empty(spec.rows, spec.dim)
    dcp.load({name: weight}, checkpoint_id=folder)
    fill_rows(
        start,
        spec.init,
        seed=config.train.seed,
        table=table,
        first_row=0,
        first_column=0,
        dim=spec.dim,
        unknown_row=True,
    )
    assert not start[0].any()
    changed = (weight != start).any(1).nonzero().flatten().tolist()
    assert changed == [0] * unknown + sorted(held.tolist())


def test_the_unknown_row_starts_at_zeros_under_any_cut() -> None:
    init, place = Init(scale=0.1), {"seed": 3, "table": "user", "dim": 8}
    plain, whole = torch.empty(20, 8), torch.empty(20, 8)
    fill_rows(plain, init, first_row=0, first_column=0, **place)
    fill_rows(whole, init, first_row=0, first_column=0, unknown_row=True, **place)
    assert plain[0].all()
    assert not whole[0].any()
    assert torch.equal(whole[1:], plain[1:])
    for rows, columns in ((slice(5, 20), slice(0, 8)), (slice(0, 20), slice(4, 8)), (slice(0, 0), slice(0, 8))):
        part = torch.empty(rows.stop - rows.start, columns.stop - columns.start)
        fill_rows(part, init, first_row=rows.start, first_column=columns.start, unknown_row=True, **place)
        assert torch.equal(part, whole[rows, columns])


def test_a_run_stopped_before_it_trained_makes_maps_that_fit(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[str]] = []

    def count(config: Config, plan: Plan, read_tasks: int, progress: object) -> dict[str, IdCounts]:
        passes.append(config.map_tables())
        words = [word for word, n in looked_up(logs, DAYS[0])["user"].items() for _ in range(n)]
        return {"user": IdCounts.of(hash_strings(pa.array(words)), 0), "item": IdCounts.of(np.arange(3), 0)}

    monkeypatch.setattr(build_id_maps, "count_ids", count)
    lines: list[str] = []

    def make(config: Config) -> dict[str, int]:
        plan = plan_input(config, "train")
        files = build_id_maps.make_maps(
            config, plan, RunFolder.open(run_folder(config)), 1, has_trained=False, notify=lines.append
        )
        assert files == build_id_maps.saved_maps(config, RunFolder.open(run_folder(config)))
        return {table: len(file.load()) for table, file in files.items()}

    config = configured(logs, tmp_path, "stopped", item={"admit_count": 1})
    first = make(config)
    assert make(config) == first
    assert len(passes) == 1
    Path(run_folder(config), "maps", "item.parquet").unlink()  # killed between the two
    assert make(config) == first
    assert len(passes) == 2
    everyone = make(configured(logs, tmp_path, "stopped", user={"admit_count": 1}, item={"admit_count": 1}))
    assert everyone["user"] == 40 > first["user"]
    assert len(passes) == 3
    small = make(configured(logs, tmp_path, "stopped", user={"admit_count": 1, "rows": 11}, item={"admit_count": 1}))
    assert small["user"] == 10
    assert "30 without a row (rows is 11)" in next(line for line in reversed(lines) if line.startswith("table user"))
    with pytest.raises(CheckpointError, match=r"for a table of 11 rows, and tables.user.rows is 50"):
        build_id_maps.saved_maps(config, RunFolder.open(run_folder(config)))
