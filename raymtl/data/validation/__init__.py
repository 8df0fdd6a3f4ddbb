"""`raymtl check`: reads the data once, counts what breaks the contract, and reports it."""
