"""The catalogue: the titles of an IMDb dump that have genres."""
