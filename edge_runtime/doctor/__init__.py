"""What an integrator asks a box before a line relies on it."""
