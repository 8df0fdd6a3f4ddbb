"""The model store: versions, the commit log of the current one, the writer's lease, and tables on storage."""
