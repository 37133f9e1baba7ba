"""Where frames come from: `open_camera` takes an index, a film, a folder or an address; `watch` never ends."""

from edge_runtime.camera.config import CameraConfig
from edge_runtime.camera.frames import Camera, Frame
from edge_runtime.camera.opencv import open_camera, redact
from edge_runtime.camera.watched import CameraHealth, WatchedCamera, watch

__all__ = ["Camera", "CameraConfig", "CameraHealth", "Frame", "WatchedCamera", "open_camera", "redact", "watch"]
