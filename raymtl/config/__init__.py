"""The configuration as typed models: one YAML file in, one validated object out."""
