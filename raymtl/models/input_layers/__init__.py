"""The slot `input`: features -> x [B, d]."""
