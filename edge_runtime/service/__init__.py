"""The box as a service of its machine."""
