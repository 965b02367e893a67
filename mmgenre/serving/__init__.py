"""What stands behind HTTP: a model, and the page that asks it."""
