"""Makes tests/golden/tiny_tflite.json: a network of 16x16x3 int8 to one int8 logit, small enough to read.

logit = 8 * (mean brightness in 0..1) - 4. Run once with the workstation extra:
python tests/edge_runtime/make_tiny_tflite.py
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).parent.parent / "golden" / "tiny_tflite.json"


def calibration() -> Iterator[list[NDArray[np.float32]]]:
    for level in np.linspace(0, 1, 11, dtype=np.float32):
        yield [np.full((1, 16, 16, 3), level, np.float32)]


def main() -> None:
    import tensorflow as tf

    image = tf.keras.Input((16, 16, 3), batch_size=1)
    pooled = tf.keras.layers.GlobalAveragePooling2D()(image)
    dense = tf.keras.layers.Dense(1)
    model = tf.keras.Model(image, dense(pooled))
    dense.set_weights([np.full((3, 1), 8 / 3, np.float32), np.array([-4], np.float32)])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    data = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=data)
    scale, zero_point = interpreter.get_output_details()[0]["quantization"]
    assert interpreter.get_input_details()[0]["quantization_parameters"]["zero_points"].tolist() == [-128]
    found = {"scale": float(scale), "zero_point": int(zero_point), "base64": base64.b64encode(data).decode()}
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
