"""Where frames come from: `open_camera` takes an index, a film, a folder or an address."""

from edge_runtime.camera.frames import Camera, Frame
from edge_runtime.camera.opencv import open_camera, redact

__all__ = ["Camera", "Frame", "open_camera", "redact"]
