"""Metrics of an evaluation: streaming, in bounded memory, additive over workers. Torch only (`docs/metrics.md`)."""

from raymtl.objectives.metrics.choose import lower_is_better, signed_value, value_of
from raymtl.objectives.metrics.evaluate import EvalMetrics

__all__ = ["EvalMetrics", "lower_is_better", "signed_value", "value_of"]
