"""Metrics, logs and audit."""
