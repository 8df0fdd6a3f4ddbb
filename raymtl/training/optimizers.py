"""The optimizers, for the sharded tables (fused into their backward pass), the replicated ones and the dense weights, with
schedule and clipping."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper

from raymtl.config.root import Config
from raymtl.config.train import Schedule, SparseOptimizer
from raymtl.embeddings.replicated import ReplicatedOptimizer, ReplicatedTables
from raymtl.embeddings.sharding import SPARSE_OPTIMIZERS, table_parameters


def attach_sparse_optimizer(model: nn.Module, config: Config) -> None:
    """Fuse the tables' optimizer into their backward pass; must be called before the tables are sharded.

    Tables with the same learning rate share kernels, so the arguments are grouped by it.
    """
    options = config.train.sparse_optimizer
    for name, parameter in table_parameters(model).items():
        own = options.of_table(config.tables[name])
        _apply_optimizer_in_backward(SPARSE_OPTIMIZERS[own.type], [parameter], _sparse_arguments(own))


def _sparse_arguments(options: SparseOptimizer) -> dict[str, object]:
    arguments: dict[str, object] = {"lr": options.lr}
    if options.type != "sgd":
        arguments["eps"] = options.eps
    if options.type == "adam":
        arguments["beta1"], arguments["beta2"] = options.betas
        arguments["weight_decay"] = options.weight_decay
    return arguments


class Optimizers:
    """The optimizer interface of the training loop and the pipeline: `zero_grad` and `step` for dense weights and tables.

    `step` averages the gradients of the dense weights and of the rows of replicated tables over the workers, in one all-reduce,
    clips the dense gradient (so all workers clip the same), updates both, and sets all learning rates for the next step. The
    backward pass has already updated the sharded tables.
    """

    def __init__(self, model: DistributedModelParallel, config: Config, total_steps: int, group: dist.ProcessGroup):
        options = config.train.dense_optimizer
        maker = torch.optim.AdamW if options.type == "adamw" else torch.optim.Adam
        fused = set(model.fused_optimizer.params)
        dense = {n: p for n, p in model.named_parameters() if n not in fused and p.requires_grad and not _is_fused(p)}
        self.dense_parameters = list(dense.values())
        self._dense = KeyedOptimizerWrapper(
            dense,
            lambda params: maker(
                params,
                lr=options.lr,
                betas=options.betas,
                eps=options.eps,
                weight_decay=options.weight_decay,
                fused=True,
            ),
        )
        self._fused = model.fused_optimizer
        self._kernels = _table_kernels(model)
        self.table_steps = torch.zeros((), dtype=torch.int64)
        """Steps of the tables' optimizer, of earlier runs too if it was loaded: Adam's bias correction depends on it."""
        self._replicated: ReplicatedTables | None = model.module.replicated
        self._tables: list[KeyedOptimizer] = [self._fused]
        if self._replicated is not None:
            self._tables.append(ReplicatedOptimizer(self._replicated))
        self.combined = CombinedOptimizer([*(("tables", tables) for tables in self._tables), ("dense", self._dense)])
        self._group, self._workers = group, dist.get_world_size(group)
        self._flat = torch.empty(0, device=self.dense_parameters[0].device)
        self._schedule, self._total_steps = config.train.schedule, total_steps
        self._clip = config.train.clip_grad_norm
        self._base = [[g["lr"] for g in o.param_groups] for o in (self._dense, *self._tables)]
        self.steps_taken = 0
        self.factor = 1.0
        self._frozen = False
        self._resting: list[nn.Parameter] = []
        self._set_factor()

    def zero_grad(self) -> None:
        self._dense.zero_grad()
        if self._replicated is not None:
            self._replicated.zero_grad()

    def step(self) -> None:
        rows = [] if self._replicated is None else self._replicated.gradients()
        if self._workers > 1:
            rows = self._averaged(rows)
        for parameter in self._resting:
            parameter.grad = None  # clipping and the optimizer skip it
        if not self._frozen:
            if self._clip is not None:
                torch.nn.utils.clip_grad_norm_(self.dense_parameters, self._clip, foreach=True)
            self._dense.step()
        self.steps_taken += 1
        self.table_steps += 1
        if self._replicated is not None:
            self._replicated.update(rows, [g["lr"] for g in self._tables[-1].param_groups], int(self.table_steps))
        self._set_factor()

    def _averaged(self, rows: list[Tensor]) -> list[Tensor]:
        """Average the dense gradients, in place, and those of the replicated tables' rows over the workers."""
        dense = [] if self._frozen else self.dense_parameters
        sizes = [p.numel() for p in dense] + [r.numel() for r in rows]
        if sum(sizes) > len(self._flat):
            self._flat = self._flat.new_empty(sum(sizes) * 5 // 4)
        flat = self._flat[: sum(sizes)]
        parts = [part.view(value.shape) for part, value in zip(flat.split(sizes), [*dense, *rows], strict=True)]
        # A weight that took no part in this step has a gradient of zeros, as other workers may have one
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in dense]
        torch._foreach_copy_(parts, [*gradients, *rows])
        dist.all_reduce(flat, group=self._group)
        flat.div_(self._workers)
        for parameter, part in zip(dense, parts, strict=False):
            parameter.grad = part
        return parts[len(dense) :]

    def freeze_dense(self) -> None:
        """From now on train only the tables; the dense weights and their moments stay fixed."""
        self._frozen = True

    def train_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """From now on train only these dense weights; all others and the tables stay fixed."""
        learning = {id(p) for p in parameters}
        self._resting = [p for p in self.dense_parameters if id(p) not in learning]
        self._base[1:] = [[0.0] * len(rates) for rates in self._base[1:]]
        self.factor = math.nan  # so that the rates are set again
        self._set_factor()

    def restore(self, steps_taken: int) -> None:
        """Resume the schedule after `steps_taken` steps."""
        self.steps_taken = steps_taken
        self._set_factor()

    def set_table_steps(self, steps: int) -> None:
        """Count the steps of the tables' optimizer from `steps` on, in the kernels of the sharded tables too."""
        self.table_steps.fill_(steps)
        for kernel in self._kernels:
            kernel.iter.fill_(steps)
            kernel.iter_cpu.fill_(steps)

    def materialize_dense_state(self) -> None:
        """Create the dense optimizer's moments, so that a checkpoint has somewhere to go; the weights stay as they are.

        Loading into an optimizer that never stepped silently restores nothing (meta-pytorch/torchrec#2474).
        """
        saved = [p.detach().clone() for p in self.dense_parameters]
        self._dense.init_state()
        with torch.no_grad():
            for parameter, value in zip(self.dense_parameters, saved, strict=True):
                parameter.copy_(value)
        self._dense.zero_grad()

    def _set_factor(self) -> None:
        factor = schedule_factor(self._schedule, self.steps_taken, self._total_steps)
        if factor == self.factor and self.steps_taken:
            return
        self.factor = factor
        for optimizer, bases in zip((self._dense, *self._tables), self._base, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * factor
        self._fused.step()  # only passes the new rate to the kernels of the next backward pass


def _table_kernels(model: nn.Module) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """fbgemm's modules of the sharded tables, which TorchRec keeps out of the tree of modules."""
    lookups = [lookup for module in model.modules() for lookup in getattr(module, "_lookups", ())]
    return [m for lookup in lookups for m in lookup.modules() if isinstance(m, SplitTableBatchedEmbeddingBagsCodegen)]


def schedule_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """Factor on the learning rates at step `step`, counted from 0."""
    warmup = schedule.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if schedule.decay == "none":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, total_steps - warmup - 1))
    fall = 1 - done if schedule.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return schedule.final_factor + (1 - schedule.final_factor) * fall


def _is_fused(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "_in_backward_optimizers")
