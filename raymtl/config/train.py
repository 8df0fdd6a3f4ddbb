"""How training runs: workers, batches, optimizers, schedule, evaluation, checkpoints."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raymtl.config.balance import Balance, Fixed
from raymtl.config.base import Section
from raymtl.config.roles import NotSearched, Role

_SAME = NotSearched("it does not change what is learned")
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class DenseOptimizer(Section):
    """Optimizer of everything that is not a table."""

    type: Annotated[Literal["adam", "adamw"], Role.LEARNING] = "adam"
    """`adamw` decouples the weight decay."""
    lr: Annotated[PositiveFloat, Role.LEARNING] = 1e-3
    """Learning rate."""
    betas: Annotated[Betas, Role.LEARNING] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: Annotated[PositiveFloat, Role.LEARNING] = 1e-8
    """Added to the denominator."""
    weight_decay: Annotated[NonNegativeFloat, Role.LEARNING] = 0.0
    """L2 (adam) or decoupled (adamw)."""


class SparseOptimizer(Section):
    """Optimizer of the tables; it runs inside the backward pass and touches only the rows of the batch."""

    type: Annotated[Literal["rowwise_adagrad", "adagrad", "adam", "sgd"], Role.LEARNING] = "rowwise_adagrad"
    """`rowwise_adagrad` keeps one number per row, `adagrad` D, `adam` (lazy) 2·D, `sgd` none."""
    lr: Annotated[PositiveFloat, Role.LEARNING] = 0.01
    """Learning rate; a table may have its own."""
    eps: Annotated[PositiveFloat, Role.LEARNING] = 1e-8
    """Added to the denominator."""
    betas: Annotated[Betas, Role.LEARNING] = (0.9, 0.999)
    """Decay of the two moments; `adam` only."""
    weight_decay: Annotated[NonNegativeFloat, Role.LEARNING] = 0.0
    """L2 on the touched rows."""


class Schedule(Section):
    """Factor on both learning rates, by step."""

    warmup_steps: Annotated[NonNegativeInt, Role.LEARNING] = 0
    """Linear rise from 0 over so many steps."""
    decay: Annotated[Literal["none", "linear", "cosine"], Role.LEARNING] = "none"
    """Fall after the warm-up, to `final_factor` at the last step of the run."""
    final_factor: Annotated[float, Field(ge=0, le=1), Role.LEARNING] = 0.0
    """Factor at the end of the decay."""


class EarlyStop(Section):
    """Ends training when evaluation no longer gets better."""

    metric: Annotated[str, Role.SINGLE_RUN] = "mean_auc"
    """`mean_auc`, or `<task>.<metric>` such as `buy.auc` or `watch.mse`."""
    patience: Annotated[PositiveInt, Role.SINGLE_RUN] = 1
    """Evaluations in a row without a gain before the run stops."""
    min_gain: Annotated[NonNegativeFloat, Role.SINGLE_RUN] = 0.0
    """A smaller gain does not count."""


class Checkpoints(Section):
    """Saved states to resume from."""

    every_units: Annotated[PositiveInt, Role.EXECUTION] = 1
    """A checkpoint after every so many units, and at the end of each pass. The last step before it may be partly empty."""
    keep: Annotated[PositiveInt, Role.EXECUTION] = 2
    """The best so many (by `train.select`) are kept, and the last one always."""
    background: Annotated[bool, Role.EXECUTION] = True
    """Write while training continues, from a copy of the state in host memory; false: the loop waits."""
    stop_grace_s: Annotated[NonNegativeFloat, Role.EXECUTION] = 20
    """After SIGTERM, wait so many seconds for the unit under way to end with a checkpoint; then stop without it. Keep it below
    the time that your scheduler allows (Kubernetes: `terminationGracePeriodSeconds`, 30 by default)."""


class Placement(Section):
    """Which nodes of the cluster the workers run on (docs/cluster.md)."""

    strategy: Annotated[Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"], Role.EXECUTION] = "PACK"
    """`PACK`: on as few nodes as possible, `SPREAD`: on as many; the strict ones: on one node, or on a node each, or not at
    all."""
    labels: Annotated[dict[str, str], Role.EXECUTION] = {}
    """Ray labels that a node must have, as in `ray.io/accelerator-type: H100`; a value may be `!x`, `in(x,y)` or `!in(x,y)`."""
    resources: Annotated[dict[str, PositiveFloat], Role.EXECUTION] = {}
    """What each worker takes beside its CPUs and its GPU, such as `memory` in bytes or a resource that `ray start` named."""


class Train(Section):
    """The run."""

    workers: Annotated[PositiveInt, Role.EXECUTION, _SAME] = 1
    """Training processes; the tables are spread over them. `{min: 2, max: 8}` in place of a number: as many as the cluster has
    room for at the time, see `min_workers`."""
    use_gpu: Annotated[bool, Role.EXECUTION, _SAME] = False
    """One GPU per worker (nccl); false: CPU (gloo)."""
    cpus_per_worker: Annotated[PositiveInt, Role.EXECUTION, _SAME] = 1
    """Logical CPUs that Ray reserves for each worker."""
    threads_per_worker: Annotated[PositiveInt | None, Role.EXECUTION, _SAME] = None
    """Threads of the arithmetic in each worker; null: the node's cores divided by its workers, at least 1."""
    min_workers: Annotated[PositiveInt | None, Role.EXECUTION] = None
    """Go on with so many workers where nodes are lost, and with up to `workers` again where nodes join, from the last checkpoint
    each time; null: always `workers`."""
    placement: Placement = Placement()
    """Where the workers run."""
    batch_size: Annotated[PositiveInt, Role.LEARNING] = 2048
    """Rows per step over all workers together, so that the number of workers does not change the optimisation."""
    epochs: Annotated[PositiveInt, Role.LEARNING] = 1
    """Times that the training days are read."""
    seed: Annotated[int, Role.LEARNING, NotSearched("the seed is what the repeats at the end change")] = 0
    """Seed of the initial weights and of dropout."""
    precision: Annotated[Literal["fp32", "bf16"], Role.LEARNING] = "fp32"
    """`bf16`: matrix products of the model in bfloat16; losses, gates and tables stay fp32."""
    dense_optimizer: DenseOptimizer = DenseOptimizer()
    """Optimizer of the dense weights."""
    sparse_optimizer: SparseOptimizer = SparseOptimizer()
    """Optimizer of the tables."""
    balance: Balance = Fixed()
    """How the tasks' losses are weighed against each other."""
    schedule: Schedule = Schedule()
    """Warm-up and decay."""
    clip_grad_norm: Annotated[PositiveFloat | None, Role.LEARNING] = None
    """Largest norm of the dense gradient over all workers; null: no clipping."""
    pipeline: Annotated[Literal["sparse_dist", "none"], Role.EXECUTION] = "sparse_dist"
    """`sparse_dist`: TorchRec's pipeline, which sends the IDs of the next batch while this one computes. `none`: one plain step
    after another, for a debugger."""
    eval_every_units: Annotated[
        PositiveInt | None, Role.SINGLE_RUN, NotSearched("all trials are measured at the same rows")
    ] = None
    """Evaluate after every so many units; null: at the end of each pass."""
    select: Annotated[str, Role.LEARNING, NotSearched("`tune.objective` chooses")] = "mean_auc"
    """What makes a checkpoint better: `mean_auc`, or `<task>.<metric>`; losses and errors count as lower is better."""
    early_stop: Annotated[EarlyStop | None, NotSearched("`tune.stopping` stops trials")] = None
    """Stop before the last pass; null: never."""
    checkpoint: Annotated[Checkpoints, _SAME] = Checkpoints()
    """When and how many."""
    max_failures: Annotated[NonNegativeInt, Role.EXECUTION] = 3
    """Times that the run recovers by itself from lost workers."""
    resize_check_s: Annotated[PositiveFloat, Role.EXECUTION] = 60.0
    """Seconds between two looks whether there is room for more workers; with `min_workers` only."""
    start_timeout_s: Annotated[PositiveFloat, Role.EXECUTION] = 120.0
    """Longest wait for the cluster to have room for the workers: for others to end, for nodes to join. What is missing is said at
    once."""
    step_timeout_s: Annotated[PositiveFloat, Role.EXECUTION] = 600.0
    """Longest wait of one worker for the others before the run is taken for hung."""
    log_every_steps: Annotated[PositiveInt, Role.EXECUTION] = 50
    """Steps between two lines of progress and of `metrics.jsonl`."""

    @model_validator(mode="before")
    @classmethod
    def _from_range(cls, raw: Any) -> Any:
        workers = raw.get("workers") if isinstance(raw, dict) else None
        if not isinstance(workers, dict):
            return raw
        if unknown := next((key for key in workers if key not in ("min", "max")), None):
            raise ValueError(f"workers has the unknown key `{unknown}`; known are `min`, `max`")
        if missing := next((key for key in ("min", "max") if key not in workers), None):
            raise ValueError(f"workers has no `{missing}`; expected a whole number ≥ 1 there")
        return {**raw, "workers": workers["max"], "min_workers": workers["min"]}

    @model_validator(mode="after")
    def _ordered(self) -> "Train":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, above workers, {self.workers}; swap them")
        # Ray counts room for elastic workers by their resources alone, and would ask for more than can be placed
        if self.min_workers is not None and self.placement.labels:
            raise ValueError(
                "placement.labels cannot be had with min_workers; give those nodes a resource of their own and ask for it in "
                "placement.resources"
            )
        if self.min_workers is not None and self.placement.strategy.startswith("STRICT"):
            raise ValueError(
                f"placement.strategy is `{self.placement.strategy}`, which min_workers cannot keep to; use PACK or SPREAD"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """Workers that the run needs at least."""
        return self.min_workers or self.workers
