from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup
from diffusers.training_utils import compute_snr

from generation.in_and_out.objective import cosine_with_restarts, min_snr_weights


def alphas() -> torch.Tensor:
    found: torch.Tensor = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod
    return found


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_weights_are_the_papers_formula(gamma: float) -> None:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    snr = compute_snr(scheduler, torch.arange(1000))
    clipped = torch.minimum(snr, torch.full_like(snr, gamma))
    torch.testing.assert_close(min_snr_weights(alphas(), "epsilon", gamma), clipped / snr)
    torch.testing.assert_close(min_snr_weights(alphas(), "v_prediction", gamma), clipped / (snr + 1))
    by_hand = min_snr_weights(torch.tensor([0.5, 0.9, 0.99]), "epsilon", 5.0)  # SNR 1, 9, 99
    torch.testing.assert_close(by_hand, torch.tensor([1.0, 5 / 9, 5 / 99]))


def test_without_gamma_every_timestep_weighs_the_same_and_no_signal_is_no_nan() -> None:
    for prediction in ("epsilon", "v_prediction"):
        assert torch.equal(min_snr_weights(alphas(), prediction, 0.0), torch.ones(1000))
    assert min_snr_weights(torch.tensor([0.0]), "epsilon", 5.0).tolist() == [1.0]
    assert min_snr_weights(torch.tensor([0.0]), "v_prediction", 5.0).tolist() == [0.0]
    with pytest.raises(ValueError, match="prediction = 'sample'"):
        min_snr_weights(alphas(), "sample", 5.0)


@pytest.mark.parametrize("cycles", [1, 3])
def test_the_learning_rate_restarts_at_the_top_of_each_cycle(cycles: int) -> None:
    steps = 300
    factors = [cosine_with_restarts(step / steps, cycles) for step in range(steps + 1)]
    rises = [step for step in range(1, steps + 1) if factors[step] > factors[step - 1]]
    assert rises == [steps // cycles * turn for turn in range(1, cycles)]
    assert all(factors[step] == 1.0 for step in (0, *rises)) and factors[-1] == 0.0


def test_the_learning_rate_is_that_of_diffusers_own_schedule() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_with_hard_restarts_schedule_with_warmup(optimiser, 0, 91, 3)
    for step in range(91):
        assert cosine_with_restarts(step / 91, 3) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()
