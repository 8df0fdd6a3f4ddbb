"""Why a metric is null where a prediction is NaN or infinite: one wording, so that the daily job's gate can recognise it."""

_WORDS = "predictions are not finite"


def non_finite_reason(count: int, rows: int) -> str:
    """The reason, for `count` predictions beside `rows` finite ones."""
    return f"{count:,} of {rows + count:,} {_WORDS}"


def is_non_finite(reason: str | None) -> bool:
    """Whether a `null_reason` is that of predictions that are not finite."""
    return reason is not None and reason.endswith(_WORDS)
