"""Logs to batches: the contract, reading with Ray Data, validation, ID maps, converters."""
