"""What fine-tuning minimises, and how fast: min-SNR weights and the cosine with hard restarts.

Pure functions. Leaves out: the loop (`tune.py`).

Source: *Efficient Diffusion Training via Min-SNR Weighting Strategy* (arXiv 2303.09556), section
3.4; SGDR (arXiv 1608.03983), equation 5, with cycles of equal length.
"""

from __future__ import annotations

import math

import torch

PREDICTIONS = ("epsilon", "v_prediction")


def min_snr_weights(alphas_cumprod: torch.Tensor, prediction: str, gamma: float) -> torch.Tensor:
    """Loss weight of every timestep.

    With SNR = a / (1 - a): min(SNR, gamma) / SNR where the network predicts the noise, and
    min(SNR, gamma) / (SNR + 1) where it predicts the velocity.

    Args:
        alphas_cumprod: `(T,)` float, the share of signal in a noisy picture's variance.
        prediction: epsilon or v_prediction.
        gamma: 0 weighs all alike.

    Returns:
        `(T,)` float32.

    Raises:
        ValueError: another prediction.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction = {prediction!r}; expected one of {', '.join(PREDICTIONS)}")
    signal = alphas_cumprod.double()
    if gamma == 0:
        return torch.ones_like(signal, dtype=torch.float32)
    snr = signal / (1 - signal)
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1.0).float()  # finite at SNR 0, too
    return (snr.clamp(max=gamma) / (snr + 1)).float()


def cosine_with_restarts(progress: float, cycles: int) -> float:
    """Factor of the learning rate: from 1 down to 0 along a half cosine, `cycles` times.

    Args:
        progress: share of the run that is over, 0 to 1.
    """
    if progress >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0)))
