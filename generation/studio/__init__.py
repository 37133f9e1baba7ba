"""The expert's page: choose a good picture, draw where, say what, accept or reject what is painted."""
