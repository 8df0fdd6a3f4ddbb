"""Losses and metrics; torch only."""
