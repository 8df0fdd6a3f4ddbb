"""The model: one section per slot, which `presets.py` fills for the published models.

A slot of `type: custom` names a class of the user's own package (`docs/extending.md`).
"""

from typing import Annotated, Any

from pydantic import model_validator

from raymtl.config.base import Section, did_you_mean
from raymtl.config.presets import PRESETS, apply_preset
from raymtl.config.roles import Role
from raymtl.config.slots.bias import Bias, NoBias
from raymtl.config.slots.coupler import Coupler, NoCoupler
from raymtl.config.slots.input import ConcatInput, Input
from raymtl.config.slots.penalties import ConversionLoss, KLBound, OrderLoss
from raymtl.config.slots.refine import NoRefine, Refine
from raymtl.config.slots.sequence import NoSequence, Sequence
from raymtl.config.slots.towers import MLPTowers, Towers
from raymtl.config.slots.trunk import Trunk


class Model(Section):
    """The model: a preset, and overrides of its slots."""

    preset: Annotated[str | None, Role.MODEL] = None
    """A published model (`raymtl config presets` lists them); the keys below override its slots."""
    input: Input = ConcatInput()
    """Embeddings and dense features -> x [B, d]."""
    sequence: Sequence = NoSequence()
    """Behaviour sequences -> [B, d], appended to x."""
    refine: Refine = NoRefine()
    """x [B, d] -> per-task inputs [B, T, d]."""
    trunk: Trunk
    """x -> one representation per task [B, T, k]."""
    towers: Towers = MLPTowers()
    """One representation per task from what the trunk made; without a `type` one MLP per task."""
    coupler: Coupler = NoCoupler()
    """Tower outputs [B, T, k] -> logits [B, T]."""
    bias: Bias = NoBias()
    """Position tower, added to the logits in training only."""
    order_loss: OrderLoss = OrderLoss()
    """Penalty on a child that is more probable than its parent."""
    kl_bound: KLBound = KLBound()
    """Penalty on p(click)·p(conversion | click) that differs from p(order)."""
    conversion_loss: ConversionLoss = ConversionLoss()
    """Loss of the conversion rates of the coupler `product` on the rows of their condition."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        preset = raw.get("preset")
        if isinstance(preset, str) and preset not in PRESETS:
            known = ", ".join(f"`{name}`" for name in PRESETS)
            raise ValueError(f"preset is `{preset}`; expected one of {known}{did_you_mean(preset, PRESETS)}")
        merged = apply_preset(raw)
        towers = merged.get("towers")
        return merged | {"towers": {"type": "mlp", **towers}} if isinstance(towers, dict) else merged
