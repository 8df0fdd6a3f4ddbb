"""What one step of the model above the tables costs: every kernel's products and bytes, counted on a small batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from raymtl.config.root import Config
from raymtl.embeddings.tables import describe_lookup
from raymtl.models.inputs import ModelInput
from raymtl.models.ranker import build_ranker

COUNTED_ROWS = 256
ADAM_BYTES = 28
"""Per weight: read weight, gradient and both moments, write all but the gradient; fp32."""


@dataclass
class Dense:
    """Forward, backward and optimizer of everything above the tables."""

    weights: int
    kernels: list[tuple[float, float]]
    """FLOP and bytes per row of each kernel of forward and backward, in bf16."""

    @property
    def flop_per_row(self) -> float:
        return sum(flop for flop, _ in self.kernels)


class _Counter(TorchDispatchMode):
    """Notes FLOP and bytes of every operation that makes or changes memory."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        memory = {t.untyped_storage().data_ptr() for t in read}
        is_view = all(t.untyped_storage().data_ptr() in memory for t in made) and not func._schema.is_mutable
        if made and not is_view:
            count = flop_registry.get(func._overloadpacket)
            flop = count(*args, **(kwargs or {}), out_val=out) if count else 0
            size = sum(t.numel() * t.element_size() for t in [*read, *made])
            self.kernels.append((flop / COUNTED_ROWS, size / COUNTED_ROWS))
        return out


def count_dense(config: Config) -> Dense:
    """Count one step of the configuration's model; sequences are as long as `max_length`."""
    torch.manual_seed(0)
    spec = describe_lookup(config).spec
    model = build_ranker(config.model, config.active_tasks(), spec, {})
    weights = sum(p.numel() for p in model.parameters())
    rows = COUNTED_ROWS
    longest = {n: config.features[n].max_length for n in spec.sequences}  # type: ignore[union-attr]
    histories = {n: torch.randn(rows, longest[n], d, requires_grad=True) for n, d in spec.sequences.items()}
    inputs = ModelInput(
        torch.randn(rows, sum(spec.pooled.values()), requires_grad=True),
        torch.randn(rows, len(spec.dense)),
        {n: (h, torch.full((rows,), longest[n])) for n, h in histories.items()},
        None,
        torch.ones(rows, dtype=torch.bool),
        torch.zeros(rows, dtype=torch.int64),
    )
    assert config.train.precision == "bf16"
    with _Counter() as counter, torch.autocast("cpu", torch.bfloat16):
        model(inputs).float().square().mean().backward()
    return Dense(weights, counter.kernels)
