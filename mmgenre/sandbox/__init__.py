"""The outside world of the demo and the tests: a generated catalogue, and a local server like TMDB and OMDb."""
