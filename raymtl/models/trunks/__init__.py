"""The slot `trunk`: x -> what the tasks share, and what each makes of it."""
