"""Which features a version uses, what they cost, and which one explains a fall of a metric; see `docs/explain.md`."""
