"""The precision of the matrix products that `train.precision: auto` stands for."""

from typing import Literal

import torch
import torch.distributed as dist

Precision = Literal["fp32", "bf16"]

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""x86 processors with vectors or tiles of bfloat16, and ARM processors: PyTorch emulates it on all others, slower than fp32."""


def choose_precision(wanted: str, device: torch.device, group: dist.ProcessGroup) -> Precision:
    """`wanted`, or for `auto`: bf16 if the devices of all ranks of `group` have instructions for it, else fp32."""
    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "fp32"
    everywhere = torch.tensor([has_bf16(device)], dtype=torch.int32, device=device)
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN, group=group)
    return "bf16" if everywhere.item() else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether this process's device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _BF16_INSTRUCTIONS)
