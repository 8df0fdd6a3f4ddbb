"""Training: the training loop, optimizers, checkpoints, and their connection to Ray Train."""
