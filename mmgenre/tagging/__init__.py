"""Batch inference: a trained model labels tables, files and whole dumps."""
