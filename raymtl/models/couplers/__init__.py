"""The slot `coupler`: tower outputs [B, T, k] -> logits [B, T]."""
