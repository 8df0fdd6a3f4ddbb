"""The whole configuration as typed models: one YAML file in, one validated object out."""
