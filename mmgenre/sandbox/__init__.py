"""Replaces the outside world in the demo and the tests: a generated catalogue, and a local TMDB and OMDb server."""
