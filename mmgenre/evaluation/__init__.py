"""Scores of predictions, and comparisons between models."""
