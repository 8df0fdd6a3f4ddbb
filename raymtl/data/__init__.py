"""Logs to batches: the contract, reading with Ray Data, validation, ID maps, converters.

The words for amounts of data, from large to small (a chunk is of any size):

    part      the training data or the evaluation data of a configuration
    unit      what a checkpoint counts as read or not read: row groups of about `data.unit_rows` rows
    span      the units between two points at which all workers meet: a checkpoint, an evaluation, the end of an epoch
    stretch   the part of a span that is dealt completely before the next: a unit, with many workers several
    fragment  consecutive row groups of one file
    block     up to `data.block_rows` rows of one unit, which a reading task checks and converts
    slice     the rows of a block that belong to one worker
    step      one update of the weights: `train.batch_size` rows over all workers
    batch     one worker's rows of a step
    chunk     some consecutive rows or fragments that one call or task handles at a time
"""
