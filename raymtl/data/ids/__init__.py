"""IDs to rows: hashing, persistent ID maps and their lookup, admission."""
