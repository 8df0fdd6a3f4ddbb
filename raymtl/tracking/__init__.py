"""Trackers of runs and versions: MLflow, and Weights & Biases."""
