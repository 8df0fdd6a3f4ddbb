"""Why a metric is null where a prediction is NaN or infinite: one wording, so that the daily job's gate can recognise it."""

_WORDS = "predictions are not finite"


def broken_reason(broken: int, rows: int) -> str:
    """The reason, for `broken` predictions beside `rows` finite ones."""
    return f"{broken:,} of {rows + broken:,} {_WORDS}"


def is_broken(reason: str | None) -> bool:
    """Whether a `null_reason` is that of predictions that are not finite."""
    return reason is not None and reason.endswith(_WORDS)
