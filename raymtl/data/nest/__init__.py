"""Nest flat logs: one row per request, with its impressions in a list (`raymtl convert --nest`)."""
