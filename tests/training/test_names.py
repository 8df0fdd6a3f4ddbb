"""Any name that the configuration accepts works in the model, its plan, its checkpoints and its programs."""

import keyword
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from raymtl.config.load import config_from_dict
from raymtl.config.root import Config
from raymtl.embeddings.planning import dry_plan
from raymtl.embeddings.rows import table_rows
from raymtl.errors import ConfigError
from raymtl.serving.export import export_model
from raymtl.serving.model import ServedModel, feature_sides, served_tables
from raymtl.serving.rules import Rules
from raymtl.serving.tables import make_table
from raymtl.training import checkpoint
from raymtl.training.build import TrainState, build
from raymtl.training.progress import Progress
from raymtl.training.shapes import model_entries
from tests.helpers.served_version import alone
from tests.helpers.small_config import small_raw
from tests.helpers.worker_processes import share

CLASSES = (nn.ModuleDict, nn.ParameterDict, nn.ParameterList, EmbeddingBagCollection, EmbeddingCollection)
RESERVED = sorted(
    {name for kind in CLASSES for name in dir(kind)} | set(keyword.kwlist) | {"name", "x", "t_x", "_", "X"}
)
SOME = ["items", "type", "users", "half", "class", "t_items"]
GB = 1 << 30


def named(names: list[str], **tables: Any) -> Config:
    """Every name as that of a feature with its own table, of a list, of a history and of a task, in turn."""
    kinds = [{"kind": "id"}, {"kind": "ids"}, {"kind": "sequence", "max_length": 5}, {"kind": "id", "side": "user"}]
    return config_from_dict(
        {
            "data": {"path": "/nowhere", "train": {"start": "2026-01-01", "end": "2026-01-01"}},
            "features": {name: kinds[n % 4] for n, name in enumerate(names)},
            "table_defaults": {"dim": 4, "id_space": "direct", **tables},
            "tables": {name: {"rows": 5} for name in names},
            "tasks": {name: {} for name in names[:8]},
            "model": {
                "trunk": {"type": "shared_bottom", "hidden": [4]},
                "towers": {"hidden": [4]},
                "sequence": {"type": "pooled"},
            },
            "train": {"batch_size": 8, "precision": "fp32", "sparse_optimizer": {"lr": 0.1}},
        }
    )


def weights(built: TrainState, group: Any) -> dict[str, torch.Tensor]:
    return {name: shard.weight for name, table in table_rows(built.model, group).items() for shard in table.local}


@pytest.mark.parametrize("sharding", ["table_wise", "replicated"])
def test_every_name_of_an_attribute_is_trained_and_restored(sharding: str, tmp_path: Path) -> None:
    config = named(RESERVED, sharding=sharding)
    with alone() as group:
        built = build(config, {}, 2, torch.device("cpu"), group)
        assert built.sharding == dict.fromkeys(RESERVED, sharding)
        before = {name: weight.clone() for name, weight in weights(built, group).items()}
        built.model(share(config, 0, 1, seed=1))[0].backward()
        built.optimizers.step()
        after = weights(built, group)
        assert [name for name in RESERVED if torch.equal(before[name], after[name])] == []
        checkpoint.save(built, Progress(), str(tmp_path), group, background=False)
        again = build(config, {}, 2, torch.device("cpu"), group)
        checkpoint.load(again, str(tmp_path), model_only=False, group=group)
        assert all(torch.equal(value, after[name]) for name, value in weights(again, group).items())


def test_every_name_is_planned() -> None:
    plan = dry_plan(
        named(RESERVED, sharding="row_wise"), workers=2, memory_bytes=80 * GB, device="cuda", workers_per_node=8
    )
    assert {t.table: t.ranks for t in plan.tables} == {name: [0, 1] for name in RESERVED}


def test_names_of_attributes_are_exported() -> None:
    config = named(SOME, id_space="hash")
    with alone() as group:
        built = build(config, {}, 2, torch.device("cpu"), group)
        tables = {name: make_table(weight.clone(), "none") for name, weight in weights(built, group).items()}
    sides = feature_sides(config)
    rules = {side: Rules(config, names, {}) for side, names in sides.items()}
    ranker = built.model.module.head.ranker.eval()
    exported = export_model(config, ranker, {n: tables[n] for n in served_tables(config)}, rules)
    assert set(exported.programs) == {"whole", "user", "item"}
    assert [output["name"] for output in exported.facts["outputs"]] == SOME
    assert ServedModel(config, ranker, tables).outputs == SOME


def test_a_task_with_the_name_of_another_output_is_refused_before_ray_starts() -> None:
    tasks = {"click": {}, "buy": {"parent": "click"}, "cvr": {}, "buy_given_click": {}}
    raw = small_raw() | {"tasks": tasks, "model": {"preset": "esmm"}}
    with pytest.raises(ConfigError, match=r"tasks.buy_given_click has the name of an output of model.coupler; rename"):
        model_entries(config_from_dict(raw))


def test_a_class_with_the_name_of_another_output_is_refused_before_ray_starts() -> None:
    kinds = {"kind": "multiclass", "classes": ["click", "cart"]}
    tasks = {"click": {}, "cart": {"parent": "click"}, "buy": {"parent": "click"}, "buy_given": kinds}
    raw = small_raw() | {"tasks": tasks, "model": {"preset": "esmm"}}
    with pytest.raises(ConfigError, match=r"tasks.buy_given predicts `buy_given_click`, which is also the name of an"):
        model_entries(config_from_dict(raw))
    tasks["bought"] = tasks.pop("buy_given")
    assert model_entries(config_from_dict(raw))
