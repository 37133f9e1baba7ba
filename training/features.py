"""ResNet-50 as a measure of likeness: what the quality gate compares pictures by.

Layers up to layer3, so that partial weights serve. Leaves out: the gate (`generation/quality/`).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.feature_extraction import create_feature_extractor

from diagline.errors import TrainingError
from training import teacher

LONG_SIDE_PX = 320
NEEDED = ("conv1", "layer1", "layer2", "layer3")


def resnet50(weights: str, stride_in_1x1: bool) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A function from a picture, `(h, w, 3)` uint8 BGR, to layer2's and layer3's channel means, `(1536,)` float32.

    A picture is scaled so that its longer side is 320 px, its aspect kept.

    Raises:
        TrainingError: no weights, or a file that leaves a layer up to layer3 to chance.
    """
    if weights == "none":
        raise TrainingError(
            'teacher.weights = "none": random features measure nothing; expected "imagenet" or a file '
            'for generate.quality.features = "resnet50"; set it, or features = "pyramid"'
        )
    network, report = teacher.build(weights, stride_in_1x1, freeze=0)
    holes = [stage.stage for stage in report.stages if stage.stage in NEEDED and (stage.missing or stage.wrong_shape)]
    if holes:
        raise TrainingError(
            f"{weights}: leaves {', '.join(holes)} to chance; expected conv1 to layer3 whole; choose another file"
        )
    network.eval()
    layers = create_feature_extractor(network.resnet, list(NEEDED[2:]))  # what lies above is not computed

    def measure(image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        scale = LONG_SIDE_PX / max(image_bgr.shape[:2])
        size = max(32, round(image_bgr.shape[1] * scale)), max(32, round(image_bgr.shape[0] * scale))
        scaled = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        rgb = np.ascontiguousarray(scaled[:, :, ::-1]).astype(np.float32) / 255
        with torch.inference_mode():
            image = torch.from_numpy(rgb).permute(2, 0, 1)[None]
            found = layers((image - network.mean) / network.std)
        return torch.cat([found[name].mean(dim=(2, 3))[0] for name in NEEDED[2:]]).numpy().astype(np.float32)

    return measure
