"""The model slots and the ranker that chains them. Torch only: no Ray, no files, no collectives.

Shapes in every docstring of this package: B rows, T tasks, E experts, G groups, S streams, L sequence length,
d and k widths. A tensor called a *logit* lives in the task's link space: logit for binary tasks, log of the mean for
counts, the prediction itself for real values.
"""
