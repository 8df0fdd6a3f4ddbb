"""The slot `sequence`: behaviour sequences -> [B, d] beside x."""
