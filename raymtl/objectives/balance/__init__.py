"""How the tasks' losses are weighed against each other: one file per method, and the balancer that runs one in each step."""
