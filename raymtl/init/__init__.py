"""`raymtl init`: a first configuration from the logs themselves."""
