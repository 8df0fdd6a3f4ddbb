"""What a run says of itself to those who watch a cluster: Ray's Prometheus metrics, and log lines."""
