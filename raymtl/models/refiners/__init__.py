"""The slot `refine`: x [B, d] -> per-task inputs [B, T, d]."""
