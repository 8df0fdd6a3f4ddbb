"""The model store: versions, the log of what is current, the lease of the one writer, and tables on storage."""
