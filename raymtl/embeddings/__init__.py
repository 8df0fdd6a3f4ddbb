"""ID spaces, TorchRec tables, and how they are spread over the workers."""
