"""A line device: what can be asked of it, each question one method.

Stands on `Link`, which asks until it is answered. Image commands are MCUmgr's, so that they work
with any SMP server; the rest is the device's own group 64 (PROTOCOL.md). Leaves out: the order in
which a model is flashed (`flash.py`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from diagline.errors import FlashError
from firmware_bridge import replies
from firmware_bridge.link import BAUD, IMAGE, INSPECT, OS, Link, NoAnswerError, Patience, RefusedError
from firmware_bridge.replies import Facts, Info, Judged, Model, SelfTest, Slot

OS_RESET, OS_PARAMETERS = 5, 6
IMAGE_STATE, IMAGE_UPLOAD, IMAGE_ERASE = 0, 1, 5
INFO, BEGIN, ROWS, FINISH, SELFTEST, FACTS = range(6)
NO_UPLOAD_BEGUN, FLASH_REFUSED = 20, 12
STOCK_BUFFER_BYTES = 256  # of a server that does not say its own
LARGEST_PIECE, SMALLEST_PIECE = 2048, 160  # the first one holds an image's header
AROUND_PIECE_BYTES = 112  # length, CRC, header and the map around the data
WORD_BYTES = 32
RESTARTS = 5
SELFTEST_TIMES, START_TRIES = 30, 120
"""All golden pictures take a slow device seconds, and they run at every start."""

Progress = Callable[[int], object]
"""Called with the bytes, or rows, that are there."""


class Device:
    """A device behind an open link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.where = link.path

    # ---- what it is ----

    def info(self, patience: Patience | None = None) -> tuple[Info, Model | None]:
        """The device, and the model that runs.

        Raises:
            FlashError: not a line device of a protocol known here; no answer.
        """
        body = self.link.ask("info", INSPECT, INFO, patience=patience)
        found = replies.parse(Info, body, self.where)
        if found.protocol != replies.PROTOCOL:
            raise FlashError(f"{self.where}: protocol {found.protocol}; expected {replies.PROTOCOL}; update diagline")
        return found, replies.parse(Model, body, self.where) if "model" in body else None

    def model(self) -> Model:
        """The model that runs.

        Raises:
            FlashError: none does, or as `info`.
        """
        _, running = self.info()
        if running is None:
            raise FlashError(
                f"{self.where}: no model runs; expected one; flash it with: diagline flash BUNDLE --port {self.where}"
            )
        return running

    def wait(self) -> tuple[Info, Model | None]:
        """`info` of a device that is starting; raises as it."""
        return self.info(Patience(self.link.patience.again_s, START_TRIES))

    def facts(self) -> Facts:
        """What it counted; raises as `info`."""
        return replies.parse(Facts, self.link.ask("facts", INSPECT, FACTS), self.where)

    def selftest(self) -> SelfTest:
        """Run its golden pictures; raises as `info`."""
        usual = self.link.patience
        patience = Patience(SELFTEST_TIMES * usual.again_s, usual.tries // 2)
        return replies.parse(SelfTest, self.link.ask("self-test", INSPECT, SELFTEST, {}, patience), self.where)

    def reset(self) -> None:
        """Start it again. Whether it did is not asked: a request sent twice would be a second reset."""
        try:
            self.link.ask("reset", OS, OS_RESET, {}, Patience(tries=1))
        except NoAnswerError:
            self.slots()  # it is there at least, before or after

    # ---- its slots ----

    def slots(self) -> tuple[Slot, ...]:
        """The accepted images; raises as `info`."""
        return self._slots(self.link.ask("image state", IMAGE, IMAGE_STATE))

    def test(self, digest: bytes) -> tuple[Slot, ...]:
        """Ask for the spare image to be tried at the next start.

        Args:
            digest: the SHA-256 that stands in the image.
        """
        return self._slots(self.link.ask("trial", IMAGE, IMAGE_STATE, {"hash": digest}))

    def confirm(self) -> tuple[Slot, ...]:
        """Put the running model in force."""
        return self._slots(self.link.ask("confirmation", IMAGE, IMAGE_STATE, {"confirm": True}))

    def erase(self) -> None:
        """Forget the spare image."""
        self.link.ask("erase", IMAGE, IMAGE_ERASE, {})

    def _slots(self, body: dict[str, object]) -> tuple[Slot, ...]:
        images = body.get("images")
        if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
            raise FlashError(f"{self.where}: image state without images; expected an SMP server's image group")
        return tuple(replies.parse(Slot, one, self.where) for one in images)

    def upload(self, image: bytes, progress: Progress = lambda there: None) -> bool:
        """Send an image into the spare slot; goes on where an earlier upload of it stopped.

        Returns:
            Whether the device says that the SHA-256 of what it read back is the image's.

        Raises:
            RefusedError, NoAnswerError: the device says no, or nothing.
            FlashError: it takes no more, or starts again and again.
        """
        piece, offset, matched = self._piece(), 0, False
        first = {"len": len(image), "sha": hashlib.sha256(image).digest(), "image": 0}
        restarts = stuck = 0
        while offset < len(image):
            body = {"off": offset, "data": image[offset : offset + piece]} | (first if offset == 0 else {})
            try:
                reply = self.link.ask("upload", IMAGE, IMAGE_UPLOAD, body)
            except RefusedError as error:
                restarts += 1
                again = error.code == FLASH_REFUSED or (error.code == NO_UPLOAD_BEGUN and offset > 0)
                if error.group != IMAGE or not again or restarts > RESTARTS:
                    raise
                offset = 0  # the device says where to go on
                continue
            except NoAnswerError:
                if piece == SMALLEST_PIECE:
                    raise
                piece = SMALLEST_PIECE  # on a bad wire short frames come through
                continue
            there = reply.get("off")
            if type(there) is not int or not 0 <= there <= len(image):
                raise FlashError(f"{self.where}: upload stands at {there!r}; expected 0 to {len(image)}; flash again")
            stuck = stuck + 1 if there <= offset else 0
            if stuck > RESTARTS:
                raise FlashError(f"{self.where}: upload stays at {there} of {len(image)} bytes; reset the device")
            offset, matched = there, reply.get("match") is True
            progress(offset)
        return matched

    def _piece(self) -> int:
        try:
            size = self.link.ask("parameters", OS, OS_PARAMETERS).get("buf_size")
        except RefusedError:
            size = None
        room = (size if isinstance(size, int) else STOCK_BUFFER_BYTES) - AROUND_PIECE_BYTES
        return max(min(room, LARGEST_PIECE) // WORD_BYTES * WORD_BYTES, WORD_BYTES)

    # ---- pictures ----

    def judge(self, image_u8: NDArray[np.uint8], progress: Progress = lambda there: None) -> Judged:
        """Push a picture row by row.

        Args:
            image_u8: (height, width, channels) uint8, as the running model takes it.

        Raises:
            RefusedError, NoAnswerError: as `upload`.
        """
        number = random.randrange(1, 1 << 32)
        height, row_bytes = len(image_u8), image_u8[0].size
        together = max(1, LARGEST_PIECE // row_bytes)
        self.link.ask("picture", INSPECT, BEGIN, {"pic": number})
        row, stuck = 0, 0
        while row < height:
            body = {"pic": number, "row": row, "data": image_u8[row : row + together].tobytes()}
            expected = self.link.ask("rows", INSPECT, ROWS, body).get("row")
            stuck = stuck + 1 if type(expected) is not int or expected <= row else 0
            if type(expected) is not int or not 0 <= expected <= height or stuck > RESTARTS:
                raise FlashError(f"{self.where}: row {expected!r} after row {row}; expected up to {height}; ask again")
            row = expected
            progress(row)
        found = replies.parse(Judged, self.link.ask("verdict", INSPECT, FINISH, {"pic": number}), self.where)
        if found.pic != number:
            raise FlashError(f"{self.where}: verdict on picture {found.pic}; expected {number}; ask again")
        return found


@contextmanager
def connect(path: str, baud: int = BAUD, patience: Patience | None = None) -> Iterator[Device]:
    """The device on a port, as long as the block runs; raises as `Link`."""
    with Link(path, baud, patience) as link:
        yield Device(link)
