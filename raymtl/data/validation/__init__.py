"""`raymtl check`: read the data once, count the violations of the contract, and report them."""
