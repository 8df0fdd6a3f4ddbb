"""The search for the formula of a score, on saved predictions: no training."""
