"""Versions of a model on plain storage: written, published in one step, read, checked, rolled back; and who may write them."""
