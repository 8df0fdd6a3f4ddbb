"""The slot `bias`: position-like features -> [B, T] beside the logits, in training only."""
