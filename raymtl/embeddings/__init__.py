"""TorchRec tables, and how they are sharded over the workers."""
