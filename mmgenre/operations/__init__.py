"""Submitting jobs to a cluster, and checking a cluster before a job runs on it."""
