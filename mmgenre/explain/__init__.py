"""Explanations: the words and poster regions behind each predicted genre."""
