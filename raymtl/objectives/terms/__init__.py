"""The losses that a task can have beside that of its kind: one file per loss, found by its key in `tasks.<name>.losses`."""
