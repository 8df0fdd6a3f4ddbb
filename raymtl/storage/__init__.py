"""Files and objects on any file system: retries, atomic writes, temporary folders. It knows bytes, not models."""
