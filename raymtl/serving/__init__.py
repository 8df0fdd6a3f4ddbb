"""Serving of a published version: its model in plain torch, split into user and item part, for batch scoring and export."""
