"""Enrichment: plots, languages and poster URLs from TMDB, OMDb or a file."""
