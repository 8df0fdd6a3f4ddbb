"""Telemetry of a run: Ray's Prometheus metrics, and log lines."""
