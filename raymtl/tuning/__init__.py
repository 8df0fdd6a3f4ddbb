"""Searching the configuration with Ray Tune: the space, the trials, and what came of them."""
