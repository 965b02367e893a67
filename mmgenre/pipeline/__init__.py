"""Whole runs: every stage from an IMDb dump to a report, or to a tagged catalogue."""
