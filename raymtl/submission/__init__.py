"""Commands of raymtl as jobs of a Ray cluster: what is sent there, and what comes back."""
