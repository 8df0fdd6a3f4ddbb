"""The slot `trunk`: x [B, d] or [B, T, d] -> representations of the tasks, [B, width] or [B, T, width]."""
