"""Drives the operator's page as it stands at the line; run, it takes the picture for the docs.

PYTHONPATH=tests/support python -m box_driver docs/box.png
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import studio_driver

from diagline.heat import Grid, overlay
from diagline.preprocess import InputContract
from edge_runtime.dashboard.server import PageConfig, PageServer
from edge_runtime.dashboard.view import FakeView, example, judged

TOKEN = "a-token-for-tests-only"
COLOURS = 128  # of the picture in the docs


def jpeg() -> bytes:
    """A grey part with a dark scratch, and the heat on it."""
    rng = np.random.default_rng(3)
    grain = cv2.GaussianBlur(rng.normal(0, 26, (420, 560)).astype(np.float32), (0, 0), 1.2)
    shade = np.linspace(-14, 14, 560, dtype=np.float32)
    part = (150 + grain + shade).clip(0, 255).astype(np.uint8)
    cv2.polylines(
        part, [np.array([(318, 120), (341, 168), (352, 231), (379, 262)], np.int32)], False, 62, 4, cv2.LINE_AA
    )
    heat = np.full((21, 28), -6, np.float32)
    for row, column in ((6, 16), (7, 16), (8, 17), (9, 17), (10, 17), (11, 17), (12, 18)):
        heat[row, column] = 9
    heat = cv2.GaussianBlur(heat, (0, 0), 0.9).astype(np.float32)
    shown = overlay(cv2.cvtColor(part, cv2.COLOR_GRAY2BGR), heat, 0, Grid(21, 28, 20, 10, 10), InputContract(420, 560))
    return cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


@contextmanager
def served(view: FakeView, folder: Path, port: int = 0) -> Iterator[PageServer]:
    """The page of a view, with `TOKEN`."""
    token_file = folder / "page.token"
    token_file.touch(0o600)
    token_file.write_text(TOKEN)
    server = PageServer(view, PageConfig(port=port, token_file=token_file))
    server.start()
    try:
        yield server
    finally:
        server.close()


class Operator:
    """One tab with the page in it."""

    def __init__(
        self,
        opened: Any,
        url: str,
        width_px: int = 1280,
        height_px: int = 800,
        scheme: str = "light",
        held: bool = False,
    ) -> None:
        """Open it; `held` stops the tab's own clock, which `pass_ms` moves."""
        self.page = opened.new_page(viewport={"width": width_px, "height": height_px}, color_scheme=scheme)
        self.page.set_default_timeout(studio_driver.PATIENCE_MS)
        self.failures: list[str] = []
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        self.page.on(
            "console", lambda said: self.failures.append(said.text) if "Security Policy" in said.text else None
        )
        self.page.on("dialog", lambda dialog: self.failures.append(dialog.message))
        if held:
            self.page.clock.install(time=0)
            self.page.clock.pause_at(1000)
        self.page.goto(url)

    def wait_for(self, kind: str) -> None:
        self.page.wait_for_selector(f"#headline[data-kind={kind}]")

    def wait_for_picture(self) -> None:
        self.page.locator("#picture[src]").evaluate("image => image.decode()")

    def pass_ms(self, passed_ms: int) -> None:
        self.page.clock.run_for(passed_ms)

    def read(self, place: str) -> str:
        return str(self.page.inner_text(place))

    def sign_in(self, token: str = TOKEN) -> None:
        self.page.fill("#token", token)
        self.page.click("#login button")

    def wait_for_said(self, text: str) -> None:
        self.page.locator("#said").filter(has_text=text).wait_for()

    def too_wide(self) -> list[str]:
        """What reaches beyond the page's width."""
        found = self.page.evaluate(
            "[...document.querySelectorAll('body *')]"
            ".filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"
            ".map((one) => one.id || one.tagName)"
        )
        return list(found)


def take(target: Path) -> None:
    """The picture for the docs."""
    rejected = judged("tile-004833", 23)
    view = FakeView(example(recent=(rejected,), rejects=(rejected, *example().rejects[1:])), jpeg())
    with (
        tempfile.TemporaryDirectory() as folder,
        served(view, Path(folder)) as server,
        studio_driver.browser() as opened,
    ):
        operator = Operator(opened, server.url)
        operator.sign_in()
        operator.wait_for("reject")
        operator.wait_for_picture()
        operator.page.wait_for_selector("#actions", state="visible")
        operator.page.screenshot(path=str(target))
    _fewer_colours(target)


def _fewer_colours(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
