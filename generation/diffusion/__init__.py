"""Diffusers pipelines of any method: found, loaded, their words checked and encoded once."""
