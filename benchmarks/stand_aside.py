"""Imported by each script before the project's packages: takes this folder off the module path.

`generation.py` and `training.py` here would hide the packages of those names.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]
