"""The slot `towers`: what the trunk made, [B, d] or [B, T, d] -> what the coupler reads, [B, T, k]."""
