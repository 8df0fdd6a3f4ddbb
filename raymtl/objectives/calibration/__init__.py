"""Recalibration of probabilities: what is counted, the fits, and the map that a model applies."""
