"""In which numbers a device computes, and how it is set up for them.

fp32 is meant as it is said: on a GPU TensorFloat-32, which PyTorch leaves on for convolutions, is
turned off, so that a CPU's run and a GPU's differ by rounding alone; who wants speed takes
bf16, and `auto` does where the hardware has it. On a GPU cuDNN picks the fastest of its
convolutions, which costs bit-for-bit repetition there; on a CPU a run repeats exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from diagline import record


def computed_precision(asked: str, device: str) -> str:
    """fp32 or bf16: what "auto" comes to on a device type, which is bf16 where the hardware computes in it."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if record.cpu_flags() & {"avx512_bf16", "amx_bf16"} else "fp32"


def autocast(precision: str, device: str) -> torch.autocast:
    """The mixed-precision context of a precision ("auto", "fp32", "bf16") on a device type."""
    return torch.autocast(device, torch.bfloat16, enabled=computed_precision(precision, device) == "bf16")


def to_pixels(batch: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Pictures (n, C, H, W) uint8 as a network takes them: float in 0..1, channels last, on the device."""
    return torch.from_numpy(batch).to(device).to(memory_format=torch.channels_last).float() / 255


def set_up(asked: str, device: torch.device) -> str:
    """Set the device up for a run, and say in words what it computes in."""
    computed = computed_precision(asked, device.type)
    if device.type != "cuda":
        return f"{device.type}, {computed}"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return f"{torch.cuda.get_device_name(device)}, {computed}, channels last" + (
        ", TensorFloat-32 off" if computed == "fp32" else ""
    )
