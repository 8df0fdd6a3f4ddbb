"""Logs to batches: the contract, reading with Ray Data, validation, ID maps, converters.

The words for amounts of data, from large to small:

    part      the training data or the evaluation data of a configuration
    unit      what a checkpoint counts as read or not read: row groups of about `data.unit_rows` rows
    fragment  consecutive row groups of one file
    block     up to `data.block_rows` rows passed from a reading task to a worker
    chunk     any slice of rows or fragments that one call or task handles at a time
    batch     the rows of one training step
"""
