"""Poster downloads."""
