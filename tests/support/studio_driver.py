"""Drives the expert's page as a person would: mouse, keys, and what stands on the screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
PATIENCE_MS = 30_000


def chromium() -> str | None:
    """The machine's browser, if it has one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        try:
            yield made
        finally:
            made.close()


class Studio:
    """One tab with the page in it."""

    def __init__(self, opened: Any, url: str, width_px: int = 1440, height_px: int = 900) -> None:
        self.page = opened.new_page(viewport={"width": width_px, "height": height_px})
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.goto(url)
        self.page.wait_for_selector("#normals figure")

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_selector("#normals figure")

    def choose(self, place: int = 0) -> str:
        """Put the normal at a place of the wall on the drawing board; its name."""
        tile = self.page.locator("#normals figure").nth(place)
        name = str(tile.get_attribute("data-key"))
        tile.click()
        self.wait_for_board(name)
        return name

    def wait_for_board(self, name: str) -> None:
        self.page.wait_for_function(
            "name => document.querySelector('#board [data-ready]')?.dataset.ready === name", arg=name
        )

    def stage(self) -> dict[str, float]:
        box = self.page.locator("#board .stage").bounding_box()
        assert box is not None
        return dict(box)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Page coordinates of a place in the picture, given as shares of its sides."""
        box = self.stage()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def tool(self, name: str) -> None:
        self.page.click(f"#board button[data-tool={name}]")

    def stroke(self, *places: tuple[float, float], wait: bool = True) -> None:
        """Draw with the chosen tool through places (shares of the sides), and wait until it is kept."""
        mouse = self.page.mouse
        mouse.move(*self._at(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self._at(*place), steps=6)
        mouse.up()
        if wait:
            self.wait_for_said("px marked")

    def polygon(self, *corners: tuple[float, float]) -> None:
        self.tool("polygon")
        for corner in corners:
            self.page.mouse.click(*self._at(*corner))
        self.page.click("#board button[data-act=close]")
        self.wait_for_said("px marked")

    def wait_for_said(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('#board .said').textContent.includes(text)", arg=text
        )

    def said(self) -> str:
        return str(self.page.inner_text("#board .said"))

    def fill(self, field: str, text: str) -> None:
        """Write into a field and wait until the form with it is kept."""
        written = json.dumps(text, ensure_ascii=False).strip('"')
        with self.page.expect_response(lambda answer: written in (answer.request.post_data or "")):
            self.page.locator(f"#{field} textarea, #{field} input").first.fill(text)

    def model(self, text: str) -> None:
        self.page.click("#more button")
        self.page.wait_for_selector("#model textarea, #model input")
        self.fill("model", text)

    def method(self, name: str) -> None:
        self.page.check(f"#method input[value={name}]")

    def paint(self) -> None:
        self.page.click("#paint")

    def wait_for_status(self, state: str, text: str = "") -> str:
        self.page.wait_for_function(
            "([state, text]) => [...document.querySelectorAll('#status [data-state], #refused [data-state]')]"
            ".some((line) => line.dataset.state === state && line.textContent.includes(text))",
            arg=[state, text],
        )
        return str(self.page.inner_text("#refused" if state == "refused" else "#status"))

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def wait_for_candidate(self, number: int | None = None) -> int:
        """Until the before/after view shows a candidate (this one); its number."""
        self.page.wait_for_function(
            "number => { const view = document.querySelector('#view [data-number]');"
            " return view?.offsetParent && (number === null || view.dataset.number === String(number)); }",
            arg=number,
        )
        found = self.page.evaluate("document.querySelector('#view [data-number]').dataset.number")
        return int(found)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def decision(self) -> str:
        return str(self.page.locator("#view .decision").get_attribute("data-decision") or "")
