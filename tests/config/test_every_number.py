"""Every number of the configuration has an effect: it changes what is learned, or a test that names it shows what it does.

The fields come from the classes, so a new number without a case fails.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import raymtl
from raymtl.config.load import load_config
from raymtl.config.root import Config
from raymtl.config.schema import field_type, sections
from raymtl.daily.day_job import session_config
from raymtl.daily.gate import evaluate_gate
from raymtl.training.build import build
from raymtl.training.progress import Progress
from raymtl.training.trainer import Trainer
from tests.daily.test_gate import NORMS, TASKS, metrics
from tests.helpers.daily_config import daily_config
from tests.helpers.served_version import alone
from tests.helpers.worker_processes import share

BASE = """
data: {path: /logs, train: {start: 2026-01-01, end: 2026-01-03}}
features:
  user: {kind: id}
  tags: {kind: ids}
  item: {kind: id}
  history: {kind: sequence, table: item, max_length: 5}
  age: {kind: dense}
table_defaults: {dim: 4, sharding: replicated}
tables:
  user: {rows: 51}
  tags: {rows: 40, pooling: mean}
  item: {rows: 61}
tasks:
  click: {}
  buy: {parent: click}
model:
  trunk: {type: shared_bottom, hidden: [8]}
  towers: {hidden: [8]}
  sequence: {type: pooled}
train:
  batch_size: 16
  precision: fp32
  sparse_optimizer: {lr: 0.1}
"""
ADAM = "train.sparse_optimizer={type: adam, lr: 0.1}"
TRANSFORMER = "model.sequence={type: transformer, width: 4}"
TIM = "model.sequence={type: tim, target: [item], width: 4}"
DIN = "model.sequence={type: din, target: [item], hidden: [4]}"
DUPN = "model.sequence={type: dupn, user: [user], hidden: 4, attention_hidden: 4}"
MMOE = "model.trunk={type: mmoe, experts: 2, hidden: [8]}"
PLE = "model.trunk={type: ple, hidden: [8]}"
SINGLE = ["tasks_subset=[click]", "model.trunk={type: single_task, hidden: [8]}"]
M2M = [
    "data.scenario={column: place, values: [a, b]}",
    "model.trunk={type: m2m, experts: 2, hidden: [8], knowledge_dim: 4}",
    "model.towers.hidden=[]",
]
AIT = "model.coupler={type: ait, width: 8}"
PPNET = "model.towers={type: ppnet, hidden: [8], features: [item], gate_hidden: 4}"
BIAS = [
    "features.place={kind: bias}",
    "tables.place={rows: 7}",
    "model.bias={type: position, hidden: [4], dropout: 0}",
]
ESMM = ["model.coupler={type: product}"]
BOUND = ["tasks.buy={given: click, label: order}", "tasks.order={}"]
GRADNORM = ["train.balance={type: gradnorm}", "train.dense_optimizer.lr=0.3", "tasks.buy.base_rate=0.1"]
AUTODIS = "features.age.embed={type: autodis, width: 4, buckets: 3}"
PIECEWISE = "features.age.embed={type: piecewise, edges: [0, 1, 2]}"
FOCAL = ["tasks.buy.losses={focal: {}}"]
RANKNET = ["data.group=who", "tasks.buy.losses={ranknet: {within: group}}"]
LINEAR = ["train.schedule={decay: linear}"]

LEARNED: dict[str, tuple[list[str], list[str]]] = {
    "TableDefaults.dim": ([], ["table_defaults.dim=8"]),
    "TableDefaults.lr": ([], ["table_defaults.lr=0.3"]),
    "Init.scale": ([], ["table_defaults.init.scale=0.5"]),
    "Table.rows": ([], ["tables.user.rows=7"]),
    "Task.weight": ([], ["tasks.buy.weight=3"]),
    "Task.base_rate": ([], ["tasks.buy.base_rate=0.1"]),
    "Task.normalizer_floor": ([], ["tasks.buy.normalizer_floor=100"]),
    "LossTerm.weight": (RANKNET, ["tasks.buy.losses.ranknet.weight=3"]),
    "OwnLoss.smoothing": ([], ["tasks.buy.losses.own.smoothing=0.2"]),
    "FocalLoss.gamma": (FOCAL, ["tasks.buy.losses.focal.gamma=1"]),
    "FocalLoss.alpha": (FOCAL, ["tasks.buy.losses.focal.alpha=0.25"]),
    "RankNetLoss.window": (RANKNET, ["tasks.buy.losses.ranknet.window=1"]),
    "Task.class_weights": (["tasks.third={kind: multiclass, classes: 2}"], ["tasks.third.class_weights=[1, 3]"]),
    "Task.quantiles": (["tasks.third={kind: quantile, quantiles: [0.1, 0.5]}"], ["tasks.third.quantiles=[0.1, 0.9]"]),
    "FieldWise.dice": (["model.input={type: field_wise}"], ["model.input.dice=0.5"]),
    "TransformerSequence.heads": ([TRANSFORMER], ["model.sequence.heads=4"]),
    "TransformerSequence.layers": ([TRANSFORMER], ["model.sequence.layers=2"]),
    "TransformerSequence.width": ([TRANSFORMER], ["model.sequence.width=8"]),
    "TransformerSequence.positions": ([TRANSFORMER], ["model.sequence.positions=2"]),
    "TransformerSequence.dropout": ([TRANSFORMER], ["model.sequence.dropout=0.5"]),
    "TIMSequence.heads": ([TIM], ["model.sequence.heads=4"]),
    "TIMSequence.layers": ([TIM], ["model.sequence.layers=2"]),
    "TIMSequence.width": ([TIM], ["model.sequence.width=8"]),
    "TIMSequence.positions": ([TIM], ["model.sequence.positions=2"]),
    "TIMSequence.dropout": ([TIM], ["model.sequence.dropout=0.5"]),
    "DINSequence.hidden": ([DIN], ["model.sequence.hidden=[4, 4]"]),
    "DINSequence.heads": ([DIN], ["model.sequence.heads=2"]),
    "DINSequence.search_steps": (
        [DIN, "model.sequence.search={history: item}", "tables.item.rows=2"],
        ["model.sequence.search_steps=1"],
    ),
    "DUPNSequence.hidden": ([DUPN], ["model.sequence.hidden=8"]),
    "DUPNSequence.attention_hidden": ([DUPN], ["model.sequence.attention_hidden=8"]),
    "TRM.hidden": (["model.refine={type: trm, hidden: 4}"], ["model.refine.hidden=8"]),
    "DCNv2.layers": (["model.refine={type: dcn_v2}"], ["model.refine.layers=1"]),
    "DCNv2.rank": (["model.refine={type: dcn_v2, rank: 4}"], ["model.refine.rank=2"]),
    "SENet.reduction": (["model.refine={type: senet}"], ["model.refine.reduction=1"]),
    "AutoDis.width": ([AUTODIS], ["features.age.embed.width=8"]),
    "AutoDis.buckets": ([AUTODIS], ["features.age.embed.buckets=4"]),
    "AutoDis.temperature": ([AUTODIS], ["features.age.embed.temperature=0.1"]),
    "Piecewise.edges": ([PIECEWISE], ["features.age.embed.edges=[0, 1.5, 2]"]),
    "SharedBottom.hidden": ([], ["model.trunk.hidden=[8, 4]"]),
    "SharedBottom.dropout": ([], ["model.trunk.dropout=0.5"]),
    "MMoE.experts": ([MMOE], ["model.trunk.experts=3"]),
    "MMoE.hidden": ([MMOE], ["model.trunk.hidden=[4]"]),
    "MMoE.bottom": ([MMOE], ["model.trunk.bottom=[8]"]),
    "MMoE.dropout": ([MMOE], ["model.trunk.dropout=0.5"]),
    "PLE.levels": ([PLE], ["model.trunk.levels=1"]),
    "PLE.task_experts": ([PLE], ["model.trunk.task_experts=1"]),
    "PLE.shared_experts": ([PLE], ["model.trunk.shared_experts=1"]),
    "PLE.hidden": ([PLE], ["model.trunk.hidden=[4]"]),
    "PLE.dropout": ([PLE], ["model.trunk.dropout=0.5"]),
    "SingleTask.hidden": (SINGLE, ["model.trunk.hidden=[4]"]),
    "SingleTask.dropout": (SINGLE, ["model.trunk.dropout=0.5"]),
    "M2M.experts": (M2M, ["model.trunk.experts=3"]),
    "M2M.hidden": (M2M, ["model.trunk.hidden=[4]"]),
    "M2M.knowledge_dim": (M2M, ["model.trunk.knowledge_dim=8"]),
    "M2M.meta_layers": (M2M, ["model.trunk.meta_layers=2"]),
    "M2M.tower_layers": (M2M, ["model.trunk.tower_layers=1"]),
    "M2M.dropout": (M2M, ["model.trunk.dropout=0.5"]),
    "MLPTowers.hidden": ([], ["model.towers.hidden=[4]"]),
    "MLPTowers.dropout": ([], ["model.towers.dropout=0.5"]),
    "TaskTower.hidden": ([], ["model.towers.per_task={buy: {hidden: [4, 8]}}"]),
    "TaskTower.dropout": ([], ["model.towers.per_task={buy: {dropout: 0.5}}"]),
    "PPNet.hidden": ([PPNET], ["model.towers.hidden=[4]"]),
    "PPNet.gate_hidden": ([PPNET], ["model.towers.gate_hidden=3"]),
    "PPNet.dropout": ([PPNET], ["model.towers.dropout=0.5"]),
    "EPNet.hidden": (["model.refine={type: epnet, features: [user], hidden: 4}"], ["model.refine.hidden=8"]),
    "AIT.width": ([AIT], ["model.coupler.width=4", "model.towers.hidden=[4]"]),
    "AIT.dropout": ([AIT], ["model.coupler.dropout=0.5"]),
    "PositionTower.hidden": (BIAS, ["model.bias.hidden=[8]"]),
    "PositionTower.dropout": (BIAS, ["model.bias.dropout=0.5"]),
    "OrderLoss.alpha": ([], ["model.order_loss.alpha=1"]),
    "KLBound.weight": (BOUND, ["model.kl_bound.weight=1"]),
    "ConversionLoss.weight": (ESMM, ["model.conversion_loss.weight=1"]),
    "ConversionLoss.min_propensity": (
        [*ESMM, "model.conversion_loss.weight=1"],
        ["model.conversion_loss.min_propensity=0.05"],
    ),
    "Train.batch_size": ([], ["train.batch_size=12"]),
    "Train.seed": ([], ["train.seed=1"]),
    "Train.clip_grad_norm": (["train.dense_optimizer.eps=1"], ["train.clip_grad_norm=0.001"]),
    "DenseOptimizer.lr": ([], ["train.dense_optimizer.lr=0.1"]),
    "DenseOptimizer.betas": ([], ["train.dense_optimizer.betas=[0.5, 0.5]"]),
    "DenseOptimizer.eps": ([], ["train.dense_optimizer.eps=1"]),
    "DenseOptimizer.weight_decay": ([], ["train.dense_optimizer.weight_decay=0.5"]),
    "SparseOptimizer.lr": ([], ["train.sparse_optimizer.lr=0.3"]),
    "SparseOptimizer.eps": ([], ["train.sparse_optimizer.eps=1"]),
    "SparseOptimizer.betas": ([ADAM], ["train.sparse_optimizer.betas=[0.5, 0.5]"]),
    "SparseOptimizer.weight_decay": ([ADAM], ["train.sparse_optimizer.weight_decay=0.5"]),
    "FAMO.lr": (["train.balance={type: famo}"], ["train.balance.lr=10"]),
    "FAMO.decay": (["train.balance={type: famo}"], ["train.balance.decay=0.9"]),
    "FAMO.smoothing": (["train.balance={type: famo}"], ["train.balance.smoothing=0"]),
    "CAGrad.c": (["train.balance={type: cagrad}"], ["train.balance.c=0"]),
    "GradNorm.alpha": (GRADNORM, ["train.balance.alpha=0"]),
    "GradNorm.lr": (["train.balance={type: gradnorm}"], ["train.balance.lr=1"]),
    "Schedule.warmup_steps": ([], ["train.schedule.warmup_steps=3"]),
    "Schedule.final_factor": (LINEAR, ["train.schedule.final_factor=1"]),
}
"""By field, the overrides that bring it into play, and those that change it."""

GATE: dict[str, tuple[Any, dict[str, Any]]] = {
    "Gate.min_positives": (501, {}),
    "Gate.auc_drop": (0.2, {"click__auc": 0.6}),
    "Gate.ne_rise": (0.5, {"click__ne": 1.2}),
    "Gate.calibration": ([0.1, 10], {"click__calibration": 3.0}),
    "Gate.order_rise": (0.9, {"order": 0.8}),
    "Gate.value_drop": (0.5, {"value": 1.5}),
    "Gate.norm_growth": (1.05, {}),
}
"""By field, another value, and the metrics of a candidate whose gate it changes."""

ELSEWHERE: dict[str, str] = {
    "WeightedSum.weights": "objectives/test_fusion.py",
    "PowerProduct.powers": "objectives/test_fusion.py",
    "Buckets.edges": "objectives/test_fusion.py",
    "Score.gain": "objectives/test_metrics_fused.py",
    "Score.at": "objectives/test_metrics_fused.py",
    "Data.snapshot": "data/test_delta.py",
    "Data.eval_snapshot": "data/test_delta.py",
    "Data.unit_rows": "data/test_units.py",
    "Data.block_rows": "data/test_dealing.py",
    "Data.read_tasks": "training/test_streams.py",
    "Data.prefetch_blocks": "training/test_streams.py",
    "Scenario.values": "data/test_blocks.py",
    "Sampling.rate": "data/test_sampling.py",
    "Calibration.share": "training/test_recalibration.py",
    "Calibration.prior_positives": "objectives/calibration/test_fit.py",
    "Task.positive": "data/test_label_values.py",
    "Task.negative": "data/test_label_values.py",
    "Shuffle.seed": "data/test_read.py",
    "IdsFeature.max_length": "data/test_blocks.py",
    "SequenceFeature.max_length": "data/test_blocks.py",
    "BucketFeature.edges": "data/test_buckets.py",
    "BucketFeature.null_id": "data/test_null_ids.py",
    "VectorFeature.width": "data/test_vectors.py",
    "VectorFeature.project": "models/test_encoding.py",
    "Scaled.clip": "data/test_blocks.py",
    "Scaled.mean": "data/test_blocks.py",
    "Scaled.std": "data/test_blocks.py",
    "DenseFeature.fill": "data/test_blocks.py",
    "SequenceDenseFeature.fill": "data/test_list_numbers.py",
    "TableDefaults.admit_count": "data/test_count_ids.py",
    "TableDefaults.evict_after_days": "data/test_count_ids.py",
    "Task.delay_days": "daily/test_input_plan.py",
    "EarlyLabels.cutoff_hours": "data/test_early_labels.py",
    "Train.workers": "training/test_resources.py",
    "Train.cpus_per_worker": "training/test_resources.py",
    "Train.min_workers": "training/test_resources.py",
    "Train.epochs": "training/test_driver.py",
    "Train.eval_every_units": "training/test_driver.py",
    "Train.max_failures": "training/test_starts.py",
    "Train.start_timeout_s": "training/test_resources.py",
    "Train.log_every_steps": "training/test_trainer_metrics.py",
    "Placement.resources": "training/test_resources.py",
    "Fixed.cosine_every_steps": "training/test_balance_dist.py",
    "Entropy.cosine_every_steps": "training/test_balance_dist.py",
    "Uncertainty.cosine_every_steps": "training/test_balance_dist.py",
    "FAMO.cosine_every_steps": "training/test_balance_dist.py",
    "Checkpoints.every_units": "training/test_trainer.py",
    "Checkpoints.keep": "training/test_checkpoint_folders.py",
    "Checkpoints.stop_grace_s": "terminal/test_signals.py",
    "Daily.bootstrap_days": "daily/test_input_plan.py",
    "Daily.accumulator_decay": "daily/test_runner.py",
    "Daily.compare_days_ago": "daily/test_calendar.py",
    "Daily.min_count": "data/ids/test_admission.py",
    "Daily.full_every": "daily/test_runner.py",
    "Ready.min_rows": "daily/test_ready.py",
    "Bounds.history_days": "daily/test_data_drift.py",
    "Bounds.min_days": "daily/test_data_drift.py",
    "Bounds.min_rows_share": "daily/test_data_drift.py",
    "Bounds.spread": "daily/test_data_drift.py",
    "Bounds.slack": "daily/test_data_drift.py",
    "Replay.share": "daily/test_input_plan.py",
    "Replay.days": "daily/test_input_plan.py",
    "Gate.holdout": "daily/test_input_plan.py",
    "Tune.max_trials": "tuning/test_search.py",
    "Tune.max_concurrent": "tuning/test_tune_run.py",
    "Tune.time_budget_s": "tuning/test_search.py",
    "Tune.structure_trials": "tuning/test_search.py",
    "Tune.repeats": "tuning/test_search.py",
    "Tune.seed": "tuning/test_search.py",
    "Dimension.uniform": "tuning/test_space.py",
    "Dimension.log_uniform": "tuning/test_space.py",
    "Dimension.integer": "tuning/test_space.py",
    "Dimension.log_integer": "tuning/test_space.py",
    "Objective.mean": "tuning/test_objective.py",
    "Bound.max_drop": "tuning/test_objective.py",
    "Bound.at_least": "tuning/test_objective.py",
    "Bound.at_most": "tuning/test_objective.py",
    "TPE.startup_trials": "tuning/test_search.py",
    "NSGA2.population": "tuning/test_search.py",
    "ASHA.first_rung_rows": "tuning/test_search.py",
    "ASHA.reduction": "tuning/test_search.py",
    "MedianStop.every_rows": "tuning/test_search.py",
    "MedianStop.startup_trials": "tuning/test_search.py",
}
"""The tests that show what a field does that is not learned from a batch."""


READ_BY: dict[str, str] = {
    "Train.threads_per_worker": "training/resources.py",
    "Train.resize_check_s": "training/ray_trainer.py",
    "Train.step_timeout_s": "training/ray_trainer.py",
    "Daily.keep": "daily/day.py",
    "Tune.gpus_per_trial": "tuning/run.py",
}
"""The modules that hand a field to Ray or to the store, whose part no quick test shows."""

STOPS = ("EarlyStop.patience", "EarlyStop.min_gain")
DAYS = ("Daily.dense_lr_factor",)


def numbers() -> Iterator[str]:
    """Every field that holds numbers, as `<class>.<key>`; a field that several sections inherit, once."""
    for at in sections(Config):
        for key in at.section.model_fields:
            field = field_type(at.section, key)
            if field.takes_numbers or (field.item is not None and field.item.takes_numbers):
                yield f"{next(k for k in at.section.__mro__ if key in k.__annotations__).__name__}.{key}"


@cache
def learned(*overrides: str) -> tuple[float, ...]:
    """Losses of a few steps, and the sums of all weights after them."""
    config = load_config(None, overrides, text=BASE)
    with alone() as group:
        built = build(config, {}, 5, torch.device("cpu"), group)
        losses = []
        for seed in range(3):
            built.optimizers.zero_grad()
            loss = built.model(share(config, 0, 1, seed))[0]
            loss.backward()
            built.optimizers.step()
            losses.append(loss.item())
        state = built.model.state_dict().values()
        return (*losses, *(value.double().abs().sum().item() for value in state))


def test_every_number_has_a_case() -> None:
    assert set(numbers()) == {*LEARNED, *GATE, *STOPS, *DAYS, *ELSEWHERE, *READ_BY}


@pytest.mark.parametrize("field", LEARNED)
def test_a_changed_number_changes_what_is_learned(field: str) -> None:
    before, change = LEARNED[field]
    assert learned(*before, *change) != learned(*before)


def test_the_same_numbers_learn_the_same() -> None:
    assert learned() == learned.__wrapped__()


@pytest.mark.parametrize("field", GATE)
def test_a_changed_number_changes_the_gate(field: str) -> None:
    value, candidate = GATE[field]

    def results(**gate: Any) -> list[Any]:
        config = daily_config(tasks=TASKS, **({"gate": gate} if gate else {}))
        found = evaluate_gate(
            config, metrics(), metrics(**candidate), norms=NORMS, not_finite={"user": 0}, holdout_rows=6000, changes={}
        )
        return [(check.task, check.name, check.passed) for check in found.checks]

    assert results(**{field.partition(".")[2]: value}) != results()


@pytest.mark.parametrize("field", ELSEWHERE)
def test_another_test_names_the_field(field: str) -> None:
    text = (Path(__file__).parents[1] / ELSEWHERE[field]).read_text()
    assert re.search(rf"\b{field.partition('.')[2]}\b", text)


@pytest.mark.parametrize("field", READ_BY)
def test_a_module_reads_the_field(field: str) -> None:
    text = Path(raymtl.__file__).parent.joinpath(READ_BY[field]).read_text()
    assert re.search(rf"\.{field.partition('.')[2]}\b", text)


def stops(scores: list[float], **early_stop: float) -> bool:
    config = load_config(
        None,
        [f"train.early_stop={json.dumps(early_stop)}", "data.eval={start: 2026-01-04, end: 2026-01-04}"],
        text=BASE,
    )
    progress = Progress(evaluations=[{"metrics": {"mean_auc": score}} for score in scores])
    return Trainer._out_of_patience(SimpleNamespace(_config=config, progress=progress))  # type: ignore[arg-type]


def test_early_stop_waits_for_its_gain_with_its_patience() -> None:
    assert stops([0.6, 0.7, 0.69], patience=1)
    assert not stops([0.6, 0.7, 0.69], patience=2)
    assert not stops([0.6, 0.605], min_gain=0.0)
    assert stops([0.6, 0.605], min_gain=0.01)


def test_the_dense_rate_of_a_day() -> None:
    plans: Any = SimpleNamespace(train=SimpleNamespace(days=["2026-01-01"]))
    record: Any = SimpleNamespace(parent="v1", attempt=1)
    rates = [
        session_config(
            daily_config(dense_lr_factor=f), plans, dt.date(2026, 1, 1), "/x", record
        ).train.dense_optimizer.lr
        for f in (1.0, 0.5)
    ]
    assert rates == [3e-3, 1.5e-3]
