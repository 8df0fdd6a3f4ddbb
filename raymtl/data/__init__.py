"""Logs to batches: the contract, reading with Ray Data, checking, synthetic logs, converters."""
