"""How training runs: workers, batches, optimizers, schedule, evaluation, checkpoints."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.balance import Balance, Fixed
from raymtl.config.base import Section, Seed
from raymtl.config.features import Table
from raymtl.config.roles import NotSearched, Role
from raymtl.config.track import Track

_SAME = NotSearched("it does not change what is learned")
MIN_BATCH, MAX_BATCH, AIMED_STEPS = 256, 8192, 300
"""Without `batch_size`, a run takes the largest power of two within these bounds that gives it as many steps."""
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class DenseOptimizer(Section):
    """Optimizer of all weights that are not tables."""

    type: Annotated[Literal["adam", "adamw"], Role.LEARNING] = "adam"
    """`adamw` decouples the weight decay."""
    lr: Annotated[PositiveFloat, Role.LEARNING] = 3e-3
    """Learning rate."""
    betas: Annotated[Betas, Role.LEARNING] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: Annotated[PositiveFloat, Role.LEARNING] = 1e-8
    """Added to the denominator."""
    weight_decay: Annotated[NonNegativeFloat, Role.LEARNING] = 0.0
    """L2 (adam) or decoupled (adamw)."""


class SparseOptimizer(Section):
    """Optimizer of the tables; it runs inside the backward pass and updates only the rows looked up in the batch."""

    type: Annotated[Literal["rowwise_adagrad", "adagrad", "adam", "sgd"], Role.LEARNING] = "rowwise_adagrad"
    """`rowwise_adagrad` keeps one number per row, `adagrad` D, `adam` (lazy) 2·D, `sgd` none."""
    lr: Annotated[PositiveFloat, Role.LEARNING] = 0.03
    """Learning rate; a table may have its own."""
    eps: Annotated[PositiveFloat, Role.LEARNING] = 1e-8
    """Added to the denominator."""
    betas: Annotated[Betas, Role.LEARNING] = (0.9, 0.999)
    """Decay of the two moments; `adam` only."""
    weight_decay: Annotated[NonNegativeFloat, Role.LEARNING] = 0.0
    """`adam` only: decoupled as in AdamW, of the rows looked up in a step, once per step."""

    def of_table(self, table: Table) -> "SparseOptimizer":
        """The optimizer of a table, with its own type and rate; if it is not trained, one that does nothing and has no state."""
        if not table.trainable:
            return self.model_copy(update={"type": "sgd", "lr": 0.0, "weight_decay": 0.0})
        kind = table.optimizer or self.type
        decay = self.weight_decay if kind == "adam" else 0.0
        return self.model_copy(update={"type": kind, "lr": table.lr or self.lr, "weight_decay": decay})

    @model_validator(mode="after")
    def _decays(self) -> "SparseOptimizer":
        if self.weight_decay and self.type != "adam":
            raise ValueError(
                f"weight_decay is {self.weight_decay}, but type is `{self.type}`, and only fbgemm's `adam` decays the "
                "rows of every table; set it to 0, or use `adam` on GPUs"
            )
        return self


class Schedule(Section):
    """Factor on both learning rates, by step."""

    warmup_steps: Annotated[NonNegativeInt, Role.LEARNING] = 0
    """Steps of linear warm-up from 0."""
    decay: Annotated[Literal["none", "linear", "cosine"], Role.LEARNING] = "none"
    """Decay after the warm-up, to `final_factor` at the last step of the run."""
    final_factor: Annotated[float, Field(ge=0, le=1), Role.LEARNING] = 0.0
    """Factor at the end of the decay."""


class EarlyStop(Section):
    """Stops training when the evaluation no longer improves."""

    metric: Annotated[str, Role.SINGLE_RUN] = "mean_auc"
    """`mean_auc`, or `<task>.<metric>` such as `buy.auc` or `watch.mse`."""
    patience: Annotated[PositiveInt, Role.SINGLE_RUN] = 1
    """Consecutive evaluations without a gain before the run stops."""
    min_gain: Annotated[NonNegativeFloat, Role.SINGLE_RUN] = 0.0
    """Smaller gains do not count."""


class Checkpoints(Section):
    """Saved states to resume from."""

    every_units: Annotated[PositiveInt, Role.EXECUTION] = 1
    """Save a checkpoint after every N units, and at the end of each epoch. The last step before it may be partly empty."""
    keep: Annotated[PositiveInt, Role.EXECUTION] = 2
    """Number of best checkpoints (by `train.select`) to keep; the last one is always kept."""
    background: Annotated[bool, Role.EXECUTION] = True
    """Write while training continues, from a copy of the state in host memory; false: training waits."""
    stop_grace_s: Annotated[NonNegativeFloat, Role.EXECUTION] = 20
    """After SIGTERM, wait so many seconds for the unit under way to end with a checkpoint; then stop without it. Keep it below
    the time that your scheduler allows (Kubernetes: `terminationGracePeriodSeconds`, 30 by default)."""


class Placement(Section):
    """Which nodes of the cluster the workers run on (docs/cluster.md)."""

    strategy: Annotated[Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"], Role.EXECUTION] = "PACK"
    """`PACK`: on as few nodes as possible. `SPREAD`: on as many as possible. `STRICT_PACK`: on one node. `STRICT_SPREAD`: on a
    node each."""
    labels: Annotated[dict[str, str], Role.EXECUTION] = {}
    """Ray labels that a node must have, as in `ray.io/accelerator-type: H100`; a value may be `!x`, `in(x,y)` or `!in(x,y)`."""
    resources: Annotated[dict[str, PositiveFloat], Role.EXECUTION] = {}
    """Resources of each worker in addition to its CPUs and its GPU, such as `memory` in bytes or a custom resource of `ray
    start`."""


class Train(Section):
    """Workers, batches, optimizers, evaluation and checkpoints of a run."""

    workers: Annotated[PositiveInt, Role.EXECUTION, _SAME] = 1
    """Training processes; the tables are sharded over them. `{min: 2, max: 8}` instead of a number: as many as currently fit into
    the cluster, see `min_workers`."""
    use_gpu: Annotated[bool, Role.EXECUTION, _SAME] = False
    """One GPU per worker (nccl); false: CPU (gloo)."""
    cpus_per_worker: Annotated[PositiveInt, Role.EXECUTION, _SAME] = 1
    """Logical CPUs that Ray reserves for each worker."""
    threads_per_worker: Annotated[PositiveInt | None, Role.EXECUTION, _SAME] = None
    """CPU threads of each worker for PyTorch (OMP_NUM_THREADS); null: the node's cores divided by its workers, at least 1."""
    min_workers: Annotated[PositiveInt | None, Role.EXECUTION] = None
    """Minimum workers of an elastic run. After a node is lost or added, training resumes from the last checkpoint with as many
    workers as fit, up to `workers`. Null: always `workers`."""
    placement: Placement = Placement()
    """Where the workers run."""
    batch_size: Annotated[PositiveInt | None, Role.LEARNING] = None
    """Rows per step over all workers, so that the number of workers does not change the optimisation. Null: the largest power of
    two from 256 to 8192 that gives the run at least 300 steps (else 256); the run says which, and keeps it when it resumes."""
    epochs: Annotated[PositiveInt, Role.LEARNING] = 1
    """Number of epochs: how many times the training days are read."""
    seed: Annotated[Seed, Role.LEARNING, NotSearched("the seed is what the repeats at the end change")] = 0
    """Seed of the initial weights and of dropout."""
    precision: Annotated[Literal["auto", "fp32", "bf16"], Role.LEARNING] = "auto"
    """`bf16`: matrix products of the model in bfloat16; losses, gates and tables stay fp32. `auto`: bf16 if the processors or
    GPUs of all workers have instructions for it, else fp32; the run says which."""
    dense_optimizer: DenseOptimizer = DenseOptimizer()
    """Optimizer of the dense weights."""
    sparse_optimizer: SparseOptimizer = SparseOptimizer()
    """Optimizer of the tables."""
    balance: Balance = Fixed()
    """How the task losses are weighted."""
    schedule: Schedule = Schedule()
    """Warm-up and decay."""
    clip_grad_norm: Annotated[PositiveFloat | None, Role.LEARNING] = None
    """Maximum norm of the dense gradient over all workers; null: no clipping."""
    pipeline: Annotated[Literal["sparse_dist", "none"], Role.EXECUTION] = "sparse_dist"
    """`sparse_dist`: TorchRec's pipeline, which sends the IDs of the next batch while this one computes. `none`: plain steps, for
    a debugger."""
    eval_every_units: Annotated[
        PositiveInt | None, Role.SINGLE_RUN, NotSearched("all trials are measured at the same rows")
    ] = None
    """Evaluate after every N units; null: at the end of each epoch."""
    select: Annotated[str, Role.LEARNING, NotSearched("`tune.objective` chooses")] = "mean_auc"
    """Metric by which the best checkpoints are kept: `mean_auc`, or `<task>.<metric>`. For losses and errors lower is better."""
    early_stop: Annotated[EarlyStop | None, NotSearched("`tune.stopping` stops trials")] = None
    """Stop before the last epoch; null: never."""
    checkpoint: Annotated[Checkpoints, _SAME] = Checkpoints()
    """When to save checkpoints, and how many to keep."""
    max_failures: Annotated[NonNegativeInt, Role.EXECUTION] = 3
    """Maximum number of restarts after lost workers; those that are lost during their start count separately."""
    resize_check_s: Annotated[PositiveFloat, Role.EXECUTION] = 60.0
    """Seconds between checks whether more workers fit; only with `min_workers`."""
    start_timeout_s: Annotated[PositiveFloat, Role.EXECUTION] = 120.0
    """Maximum wait until the workers fit into the cluster, for other jobs to end or nodes to join. Missing resources are reported
    at once."""
    step_timeout_s: Annotated[float, Field(ge=1), Role.EXECUTION] = 600.0
    """Maximum wait of a worker for the others; after that the workers are considered hung and restarted."""
    log_every_steps: Annotated[PositiveInt, Role.EXECUTION] = 50
    """Steps between two progress lines, and between two lines of `metrics.jsonl`."""
    track: Annotated[Track, NotSearched("trials are not tracked")] = Track()
    """Trackers that get the runs and the published versions beside TensorBoard (docs/observability.md): a list of `mlflow` and
    `wandb`, or a section with their settings."""

    @model_validator(mode="before")
    @classmethod
    def _from_range(cls, raw: Any) -> Any:
        workers = raw.get("workers") if isinstance(raw, dict) else None
        if not isinstance(workers, dict):
            return raw
        if unknown := next((key for key in workers if key not in ("min", "max")), None):
            raise ValueError(f"workers has the unknown key `{unknown}`; use `min` and `max`")
        if missing := next((key for key in ("min", "max") if key not in workers), None):
            raise ValueError(f"workers has no `{missing}`; set it to a whole number ≥ 1")
        return {**raw, "workers": workers["max"], "min_workers": workers["min"]}

    @model_validator(mode="after")
    def _ordered(self) -> "Train":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, above workers, {self.workers}; swap them")
        # Ray counts room for elastic workers by their resources alone, and would ask for more than can be placed
        if self.min_workers is not None and self.placement.labels:
            raise ValueError(
                f"placement.labels is {self.placement.labels}, which does not work with min_workers; give those nodes a custom "
                "Ray resource, and set it in placement.resources"
            )
        if self.min_workers is not None and self.placement.strategy.startswith("STRICT"):
            raise ValueError(
                f"placement.strategy is `{self.placement.strategy}`, which does not work with min_workers; use PACK or SPREAD"
            )
        return self

    @property
    def rows_per_step(self) -> int:
        """`batch_size` of a run that has been planned."""
        assert self.batch_size is not None, "the batch size is chosen when the run is planned"
        return self.batch_size

    def with_batch_size(self, rows: int) -> "Train":
        """With the batch size as a number; `rows` are those of one epoch."""
        if self.batch_size is not None:
            return self
        fitting = max(1, rows * self.epochs // AIMED_STEPS)
        chosen = min(MAX_BATCH, max(MIN_BATCH, self.workers, 1 << (fitting.bit_length() - 1)))
        return self.model_copy(update={"batch_size": chosen})

    @property
    def fewest_workers(self) -> int:
        """Minimum number of workers of the run."""
        return self.min_workers or self.workers
