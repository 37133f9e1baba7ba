"""GigE Vision and USB3 Vision cameras through Aravis, where the system has its Python bindings.

They are the distribution's and not pip's, so an environment must see the system's packages. Leaves
out: the camera's settings (exposure, trigger, pixel format); `arv-tool-0.8` or the maker's tool sets
and stores them in the camera.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.errors import CameraError, MissingExtraError
from edge_runtime.camera.frames import Closing, Frame
from edge_runtime.camera.stamps import OtherClock, stamper

BUFFERS = 8
POP_TIMEOUT_US = 200_000
TO_BGR = {
    "Mono8": cv2.COLOR_GRAY2BGR,
    "RGB8": cv2.COLOR_RGB2BGR,
    "BGR8": None,
    "BayerRG8": cv2.COLOR_BayerRGGB2BGR,
    "BayerBG8": cv2.COLOR_BayerBGGR2BGR,
    "BayerGR8": cv2.COLOR_BayerGRBG2BGR,
    "BayerGB8": cv2.COLOR_BayerGBRG2BGR,
}
"""Pixel formats of GenICam that are read, and OpenCV's way to BGR."""


def bindings() -> Any:
    """The Aravis module.

    Raises:
        MissingExtraError: the system's packages are not there, or not seen from this environment.
    """
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Aravis", "0.8")
        return importlib.import_module("gi.repository.Aravis")
    except (ImportError, ValueError) as error:
        raise MissingExtraError(
            "Aravis is not installed; expected for aravis: sources; install it with: apt-get install python3-gi "
            "gir1.2-aravis-0.8, in an environment made with --system-site-packages"
        ) from error


def to_bgr(data: bytes, width_px: int, height_px: int, pixel_format: str) -> NDArray[np.uint8] | None:
    """A buffer as `(h, w, 3)` uint8 BGR; None when it is shorter than its picture."""
    depth = 3 if pixel_format in ("RGB8", "BGR8") else 1
    if len(data) < width_px * height_px * depth:
        return None
    raw = np.frombuffer(data, np.uint8, width_px * height_px * depth)
    image = raw.reshape((height_px, width_px, 3) if depth == 3 else (height_px, width_px))
    code = TO_BGR[pixel_format]
    return image.copy() if code is None else np.asarray(cv2.cvtColor(image, code), np.uint8)


class AravisCamera(Closing):
    """Every frame of a GenICam camera, one a read; a read waits until `stop`."""

    dropped = 0

    def __init__(self, aravis: Any, name: str) -> None:
        self._aravis, self._name = aravis, f"aravis:{name}"
        self._number = 0
        self._clock = OtherClock()
        self._stopped, self._gone = threading.Event(), threading.Event()
        try:
            aravis.update_device_list()  # a GigE camera opened without it was seen to send nothing
            self._camera = aravis.Camera.new(name or None)
            self._format = self._camera.get_pixel_format_as_string()
            if self._format not in TO_BGR:
                raise CameraError(f"{self._name}: sends {self._format}; expected one of {', '.join(TO_BGR)}; set it")
            self._stream = self._camera.create_stream(None, None)
            self._camera.get_device().connect("control-lost", lambda _: self._gone.set())
            payload = self._camera.get_payload()
            for _ in range(BUFFERS):
                self._stream.push_buffer(aravis.Buffer.new_allocate(payload))
            self._camera.start_acquisition()
        except CameraError:
            raise
        except Exception as error:  # GLib.Error, which exists with the bindings alone
            raise CameraError(
                f"{self._name}: does not open ({' '.join(str(error).split())}); list cameras with: arv-tool-0.8"
            ) from error

    def read(self) -> Frame:
        """The next frame; one whose transfer is incomplete has a cause in place of its picture.

        Raises:
            CameraError: the camera no longer answers, or `stop` was called.
        """
        buffer = None
        while buffer is None:
            if self._stopped.is_set() or self._gone.is_set():
                raise CameraError(f"{self._name}: {'stopped' if self._stopped.is_set() else 'no longer answers'}")
            buffer = self._stream.timeout_pop_buffer(POP_TIMEOUT_US)
        utc, taken_ns, by = stamper(self._clock, buffer.get_timestamp)()
        number, self._number = self._number, self._number + 1
        status = buffer.get_status()
        image = None
        if status == self._aravis.BufferStatus.SUCCESS:
            image = to_bgr(buffer.get_data(), buffer.get_image_width(), buffer.get_image_height(), self._format)
        self._stream.push_buffer(buffer)
        if image is None:
            cause = f"{self._name}: incomplete transfer ({status.value_nick})"
            return Frame(None, number, utc, taken_ns, cause, stamped=by)
        return Frame(image, number, utc, taken_ns, stamped=by)

    def stop(self) -> None:
        """End a read under way; called from another thread."""
        self._stopped.set()

    def close(self) -> None:
        """Stop the camera and let go of it."""
        self._camera.stop_acquisition()
        del self._stream, self._camera


def open_aravis(name: str) -> AravisCamera:
    """Open a camera by Aravis's name for it, by address, or the first there is with "".

    Raises:
        MissingExtraError: no bindings.
        CameraError: no such camera, it is taken, or it sends a pixel format that is not read.
    """
    return AravisCamera(bindings(), name)
