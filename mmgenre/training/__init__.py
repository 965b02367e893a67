"""Training on Ray: the optimizer, the loop of a worker, its saved state and its logs."""
