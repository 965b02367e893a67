"""The HTTP service: a trained model behind a JSON API, and a web page to try it."""
