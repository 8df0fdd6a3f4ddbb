"""Every row that training looks up is marked, whatever happens to the workers in between."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from raymtl.config.root import Config
from raymtl.data.batch import Collator
from raymtl.storage.folder import Folder
from raymtl.training.row_tracker import TouchedRowTracker
from raymtl.training.synced_loader import SyncedLoader
from tests.helpers.worker_processes import mixed_block, mixed_config


def with_weights() -> Config:
    """`mixed_config` with a bag whose IDs have weights, and numbers beside the history."""
    raw = mixed_config([None], rows=12).model_dump(mode="json")
    raw["features"] |= {
        "likes": {"kind": "ids", "weights": "likes"},
        "gap": {"kind": "sequence_dense", "of": "history"},
    }
    raw["tables"]["likes"] = {"rows": 33}
    return Config(**raw)


CONFIG = with_weights()
Rows = dict[str, set[int]]


def looked_up(block: pa.Table, config: Config = CONFIG) -> Rows:
    """The rows of each table that a block has, of features of every kind."""
    found: Rows = {name: set() for name in config.tables}
    for name, feature in config.features.items():
        if feature.kind == "id":
            found[config.table_of(name)] |= set(block.column(f"id:{name}").drop_null().to_pylist())
        elif feature.kind not in ("dense", "sequence_dense"):
            found[config.table_of(name)] |= {row for rows in block.column(f"ids:{name}").to_pylist() for row in rows}
    return found


def marked(touched: TouchedRowTracker) -> Rows:
    rows = touched.rows()
    for numbers in rows.values():
        assert numbers.dtype == np.int64
        assert (np.diff(numbers) > 0).all()
    return {name: set(numbers.tolist()) for name, numbers in rows.items()}


def together(*parts: Rows) -> Rows:
    return {name: set().union(*(part[name] for part in parts)) for name in CONFIG.tables}


def touched_by(*seeds: int) -> TouchedRowTracker:
    touched = TouchedRowTracker(CONFIG)
    for seed in seeds:
        touched.add(Collator(CONFIG, 12, False)([mixed_block(CONFIG, 9, seed)]))
    return touched


def test_rows_of_batches_are_marked() -> None:
    """`item` is read by an ID and by a sequence, and the last rows of each batch are padding."""
    blocks = [mixed_block(CONFIG, 9, seed) for seed in (1, 2)]
    assert looked_up(blocks[0])["item"] > set(blocks[0].column("id:item").drop_null().to_pylist())
    assert marked(TouchedRowTracker(CONFIG)) == {name: set() for name in CONFIG.tables}
    assert marked(touched_by(1)) == looked_up(blocks[0])
    assert marked(touched_by(1, 2, 1)) == together(*map(looked_up, blocks))


def test_padding_marks_nothing() -> None:
    touched = TouchedRowTracker(CONFIG)
    touched.add(Collator(CONFIG, 12, False)([]))
    assert marked(touched) == {name: set() for name in CONFIG.tables}


def test_a_checkpoint_has_the_marks_of_all_its_workers(tmp_path: Path) -> None:
    for rank, seed in enumerate((1, 2, 3)):
        touched_by(seed).save(str(tmp_path), rank)
    union = marked(touched_by(1, 2, 3))
    for more in ((), (4,)):  # resumed on fewer workers, or on workers that have already made batches
        touched = touched_by(*more)
        touched.load(Folder.open(str(tmp_path)))
        assert marked(touched) == together(union, marked(touched_by(*more)))
    touched = touched_by(5)
    touched.load(Folder.open(str(tmp_path / "nothing")))
    assert marked(touched) == marked(touched_by(5))


def test_marks_of_tables_with_odd_names(tmp_path: Path) -> None:
    raw = CONFIG.model_dump(mode="json")
    raw["tables"] = {"file": {"rows": 51, "dim": 16}, **{n: t for n, t in raw["tables"].items() if n != "user"}}
    raw["features"]["user"]["table"] = "file"
    config = Config.model_validate(raw)
    touched, read = TouchedRowTracker(config), TouchedRowTracker(config)
    touched.add(Collator(config, 12, False)([mixed_block(config, 9, 1)]))
    touched.save(str(tmp_path), 0)
    read.load(Folder.open(str(tmp_path)))
    assert read.rows()["file"].tolist() == touched.rows()["file"].tolist() != []


def test_a_feed_marks_every_batch_before_it_hands_it_on() -> None:
    blocks = [mixed_block(CONFIG, rows, seed=n, unit=n // 2) for n, rows in enumerate((5, 20, 13, 0, 1))]
    touched = TouchedRowTracker(CONFIG)
    steps = 0
    for step in SyncedLoader(blocks, Collator(CONFIG, 12, False), None, touched.add):
        now = touched.rows()
        for jagged in (step.batch.ids, step.batch.sequences):
            for feature, values in jagged.to_dict().items():
                assert np.isin(values.values().numpy(), now[CONFIG.table_of(feature)]).all()
        steps += 1
    assert steps == 4  # batches go on beyond the end of a unit
    assert marked(touched) == together(*(looked_up(block) for block in blocks if len(block)))
