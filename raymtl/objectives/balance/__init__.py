"""How the task losses are weighted: one file per method, and the balancer that runs one in each step."""
