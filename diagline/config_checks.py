"""What every section of a config checks its values with.

Leaves out: reading a file (`config.py`).
"""

from __future__ import annotations

import difflib

from diagline.errors import ConfigError


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not allowed, and name the nearest that is."""
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{key} = {value!r}; expected one of {', '.join(allowed)}. {hint}".rstrip(". "))


def within(key: str, value: float, low: float, high: float) -> None:
    """Refuse a value below `low` or above `high`."""
    if not low <= value <= high:
        raise ConfigError(f"{key} = {value}; expected {low} to {high}")
