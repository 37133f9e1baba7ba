"""The operator's page in a real browser: readable, never out of date, and not to be written into."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box_driver
import pytest
import studio_driver
from box_driver import Operator

from diagline.verdict import State
from edge_runtime.dashboard.view import CameraState, FakeView, GateState, OutputState, example, judged
from edge_runtime.ledger import Tally

pytestmark = pytest.mark.skipif(studio_driver.chromium() is None, reason="Chromium is not installed")

HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"
SIZES = [(1280, 800), (390, 844)]


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="Playwright is not installed")
    with studio_driver.browser() as browser:
        yield browser


@pytest.fixture
def view() -> FakeView:
    return FakeView(jpeg=box_driver.jpeg())


@pytest.fixture
def url(view: FakeView, tmp_path: Path) -> Iterator[str]:
    with box_driver.served(view, tmp_path) as server:
        yield server.url


HEADLINES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "pass", "PASS"),
    ({"recent": (judged("p", 5),)}, "reject", "REJECT"),
    ({"recent": (judged("p", None, "late: no verdict"),)}, "no_decision", "NO DECISION"),
    ({"recent": ()}, "idle", "READY"),
    ({"camera": CameraState("lost", cause="no picture within 5 s")}, "stopped", "NOT JUDGING"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=["screen", "phone"])
def test_every_verdict_is_a_word_and_a_shape_of_its_own_and_huge(
    opened: Any, view: FakeView, url: str, size: tuple[int, int], scheme: str
) -> None:
    operator = Operator(opened, url, *size, scheme=scheme)
    shapes = set()
    for fields, kind, word in HEADLINES:
        view.now = example(**fields)
        operator.wait_for(kind)
        assert operator.read("#word") == word
        shown = operator.page.locator("#headline svg *:visible")
        shapes.add(str(shown.first.get_attribute("d") or shown.first.evaluate("one => one.tagName")))
        box = operator.page.locator("#headline").bounding_box()
        assert box["y"] + box["height"] < size[1] and box["width"] > 0.5 * size[0]
        height_px = float(operator.page.locator("#word").evaluate("one => parseFloat(getComputedStyle(one).fontSize)"))
        assert height_px >= (64 if size[0] > 1000 else 32)
        assert operator.too_wide() == []
    assert len(shapes) == 4, "NO DECISION and NOT JUDGING share the triangle"
    assert operator.failures == []


def test_the_page_shows_counts_picture_rejects_and_what_to_do(opened: Any, view: FakeView, url: str) -> None:
    view.change(
        gate=GateState("held", "the encoder stands still", waits=True),
        outputs=(OutputState("mqtt", False, 3, last_error="refused"),),
    )
    operator = Operator(opened, url)
    operator.wait_for("pass")
    operator.wait_for_picture()
    assert [operator.read(f"#{name}") for name in ("triggers", "PASS", "REJECT", "NO_DECISION")] == [
        "4832", "4713", "112", "7",
    ]  # fmt: skip
    assert operator.read("#share") == "2.46 %"
    rejects = operator.read("#rejected")
    assert "tile-004811" in rejects and "score 23, rejects from 0" in rejects and "late: no verdict" in rejects
    lights = operator.read("#lights")
    assert (
        "held: the encoder stands still" in lights and "acknowledge" in lights and "not connected, 3 waiting" in lights
    )


def test_a_new_verdict_brings_its_picture(opened: Any, view: FakeView, url: str) -> None:
    operator = Operator(opened, url)
    operator.wait_for_picture()
    states = {State.PASS: 4714, State.REJECT: 112, State.NO_DECISION: 7}
    view.change(tally=Tally(4833, 0, states, 2, 2))
    operator.page.wait_for_selector("#picture[src='/picture?4833']")
    operator.wait_for_picture()


def test_a_box_that_falls_silent_is_lost_within_three_seconds_and_its_pass_is_gone(
    opened: Any, view: FakeView, url: str
) -> None:
    """The tab's clock is the test's; the box hangs with its connection open, as after a power cut."""
    operator = Operator(opened, url, held=True)
    operator.wait_for("pass")
    silent, release = threading.Event(), threading.Event()

    def before(name: str) -> None:
        silent.set()
        release.wait(60)

    view.before = before
    try:
        assert silent.wait(20)
        operator.pass_ms(3000)
        assert operator.read("#word") == "NO CONTACT" and "PASS" not in operator.page.title()
        assert not operator.page.locator("#picture").is_visible()
    finally:
        view.before = lambda name: None
        release.set()
    operator.page.clock.resume()
    operator.wait_for("pass")


def test_a_box_that_is_stopped_and_started_again_is_lost_and_found(opened: Any, view: FakeView, tmp_path: Path) -> None:
    with box_driver.served(view, tmp_path) as server:
        operator = Operator(opened, server.url)
        operator.wait_for("pass")
    operator.wait_for("lost")
    view.change(recent=(judged("p", 5),))
    with box_driver.served(view, tmp_path, int(server.url.rpartition(":")[2])):
        operator.wait_for("reject")


def test_a_page_that_never_reached_the_box_shows_no_verdict(opened: Any, view: FakeView, url: str) -> None:
    view.before = lambda name: (_ for _ in ()).throw(RuntimeError("broken"))
    operator = Operator(opened, url, held=True)
    assert operator.read("#word") == "NO CONTACT"
    operator.pass_ms(3000)
    assert operator.read("#word") == "NO CONTACT" and operator.read("#contact") == "no contact"


def test_news_that_waited_on_the_way_is_not_current(opened: Any, view: FakeView, url: str) -> None:
    operator = Operator(opened, url, held=True)
    operator.wait_for("pass")
    headline = "{kind: 'reject', word: 'OLD', detail: ''}"
    news = f"hear({{boot, number: number + 1000, at_s: {view.now.at_ns / 1e9} - 60, headline: {headline}}})"
    operator.page.evaluate(news)
    assert operator.read("#word") == "PASS"


def test_whatever_a_part_or_a_cause_is_called_it_is_only_text(opened: Any, view: FakeView, url: str) -> None:
    part = judged(HOSTILE, None, f"camera: {HOSTILE}")
    view.change(
        recent=(part,), rejects=(part,), line=HOSTILE, model=HOSTILE, certificate=HOSTILE, causes={HOSTILE: 1},
        outputs=(OutputState(HOSTILE, False, last_error=HOSTILE),), gate=GateState(HOSTILE, HOSTILE),
    )  # fmt: skip
    view.refusal = HOSTILE
    operator = Operator(opened, url)
    operator.wait_for("no_decision")
    operator.sign_in()
    operator.page.click("[data-action=trigger]")
    operator.wait_for_said(HOSTILE)
    for place in ("#detail", "#rejected", "#lights", "#line", "#model", "#certificate", "#causes"):
        assert HOSTILE in operator.page.locator(place).text_content()
    assert operator.page.locator("main script, main img:not(#picture), header script, header img").count() == 0
    assert operator.failures == []


def test_an_operator_signs_in_acts_and_signs_out(opened: Any, view: FakeView, url: str) -> None:
    operator = Operator(opened, url)
    operator.page.wait_for_selector("#login", state="visible")
    assert not operator.page.locator("#actions").is_visible()
    operator.sign_in()
    operator.page.wait_for_selector("#actions", state="visible")
    operator.page.click("[data-action=self_test]")
    operator.wait_for_said("self-test passed")
    operator.page.fill("#path", "/srv/new.bundle")
    operator.page.click("#switch button")
    operator.wait_for_said("/srv/new.bundle judges")
    assert view.asked == ["self_test", "switch_bundle /srv/new.bundle"]
    operator.page.reload()
    operator.page.wait_for_selector("#actions", state="visible")
    operator.page.click("#logout")
    operator.page.wait_for_selector("#login", state="visible")
    operator.sign_in("wrong")
    operator.wait_for_said("a wrong token")
