"""The quality gate: what a generated picture must show, and what it must not (`gate.py`)."""

from generation.quality.duplicates import Duplicates
from generation.quality.features import Features, pyramid_features
from generation.quality.gate import Calibration, Scores, calibrate, judge, score

__all__ = ["Calibration", "Duplicates", "Features", "Scores", "calibrate", "judge", "pyramid_features", "score"]
