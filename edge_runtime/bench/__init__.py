"""Latency and accuracy on this very machine, measured whole."""
