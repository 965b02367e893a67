"""Metrics, thresholds and curves, as pure functions of arrays."""
