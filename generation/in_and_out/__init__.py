"""In&Out: whole defect pictures from Stable Diffusion, mixed with superimposed ones, and its fine-tuning.

`sample.py` paints, `tune.py` fine-tunes; README.md says which settings are published.
"""

from generation.in_and_out.sample import InAndOutPainter

__all__ = ["InAndOutPainter"]
