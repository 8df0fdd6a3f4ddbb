"""Metrics of an evaluation: streaming, in bounded memory, additive over workers. Torch only (`docs/metrics.md`)."""
