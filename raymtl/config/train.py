"""How training runs: workers, batches, optimizers, schedule, evaluation, checkpoints."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from raymtl.config.balance import Balance, Fixed
from raymtl.config.base import Section

Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class DenseOptimizer(Section):
    """Optimizer of everything that is not a table."""

    type: Literal["adam", "adamw"] = "adam"
    """`adamw` decouples the weight decay."""
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    betas: Betas = (0.9, 0.999)
    """Decay of the two moments."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 (adam) or decoupled (adamw)."""


class SparseOptimizer(Section):
    """Optimizer of the tables; it runs inside the backward pass and touches only the rows of the batch."""

    type: Literal["rowwise_adagrad", "adagrad", "adam", "sgd"] = "rowwise_adagrad"
    """`rowwise_adagrad` keeps one number per row, `adagrad` D, `adam` (lazy) 2·D, `sgd` none."""
    lr: PositiveFloat = 0.01
    """Learning rate; a table may have its own."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    betas: Betas = (0.9, 0.999)
    """Decay of the two moments; `adam` only."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 on the touched rows."""


class Schedule(Section):
    """Factor on both learning rates, by step."""

    warmup_steps: NonNegativeInt = 0
    """Linear rise from 0 over so many steps."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """Fall after the warm-up, to `final_factor` at the last step of the run."""
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor at the end of the decay."""


class EarlyStop(Section):
    """Ends training when evaluation no longer gets better."""

    metric: str = "mean_auc"
    """`mean_auc`, or `<task>.<metric>` such as `buy.auc` or `watch.mse`."""
    patience: PositiveInt = 1
    """Evaluations in a row without a gain before the run stops."""
    min_gain: NonNegativeFloat = 0.0
    """A smaller gain does not count."""


class Checkpoints(Section):
    """Saved states to go on from."""

    every_units: PositiveInt = 1
    """A checkpoint after every so many units, and at the end of each pass."""
    keep: PositiveInt = 2
    """The best so many (by `train.select`) are kept, and the last one always."""
    background: bool = True
    """Write while training goes on, from a copy of the state in host memory; false: the loop waits."""


class Train(Section):
    """The run."""

    workers: PositiveInt = 1
    """Training processes; the tables are spread over them."""
    use_gpu: bool = False
    """One GPU per worker (nccl); false: CPU (gloo)."""
    cpus_per_worker: PositiveInt = 1
    """Logical CPUs that Ray reserves for each worker."""
    threads_per_worker: PositiveInt | None = None
    """Threads of the arithmetic in each worker; null: the node's cores divided by its workers, at least 1."""
    batch_size: PositiveInt = 2048
    """Rows per step over all workers together, so that the number of workers does not change the optimisation."""
    passes: PositiveInt = 1
    """Times that the training days are read."""
    seed: int = 0
    """Seed of the initial weights and of dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: matrix products of the model in bfloat16; losses, gates and tables stay fp32."""
    dense_optimizer: DenseOptimizer = DenseOptimizer()
    """Optimizer of the dense weights."""
    sparse_optimizer: SparseOptimizer = SparseOptimizer()
    """Optimizer of the tables."""
    balance: Balance = Fixed()
    """How the tasks' losses are weighed against each other."""
    schedule: Schedule = Schedule()
    """Warm-up and decay."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest norm of the dense gradient over all workers; null: no clipping."""
    pipeline: Literal["sparse_dist", "none"] = "sparse_dist"
    """`sparse_dist`: TorchRec's pipeline, which sends the IDs of the next batch while this one computes. `none`: one plain step
    after another, for a debugger."""
    eval_every_units: PositiveInt | None = None
    """Evaluate after every so many units; null: at the end of each pass."""
    select: str = "mean_auc"
    """What makes a checkpoint better: `mean_auc`, or `<task>.<metric>`; losses and errors count as lower is better."""
    early_stop: EarlyStop | None = None
    """Stop before the last pass; null: never."""
    checkpoint: Checkpoints = Checkpoints()
    """When and how many."""
    max_failures: NonNegativeInt = 3
    """Times that the run recovers by itself from lost workers."""
    start_timeout_s: PositiveFloat = 120.0
    """Longest wait for the cluster to have room for the workers."""
    step_timeout_s: PositiveFloat = 600.0
    """Longest wait of one worker for the others before the run is taken for hung."""
    log_every_steps: PositiveInt = 50
    """Steps between two lines of progress and of `metrics.jsonl`."""
