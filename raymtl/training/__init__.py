"""The loop, the optimizers, checkpoints, and what joins them to Ray Train."""
