"""`raymtl doctor`: checks of a machine or a cluster, each with the value seen and the remedy."""
