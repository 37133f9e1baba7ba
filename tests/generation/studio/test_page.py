"""The expert's page in a real browser: paint, generate, judge, reload; nothing is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import studio_driver
from studio_driver import Studio

from diagline import samples
from diagline.config import Config, DataConfig
from diagline.config_generate import GenerateConfig
from diagline.preprocess import InputContract
from diagline.samples import GOOD, Sample, SampleSet
from generation import regions
from generation.materials import SURFACES, paint_surface
from generation.quality.features import pyramid_features
from generation.repaint import repaint
from generation.studio import shown

pytestmark = pytest.mark.skipif(studio_driver.chromium() is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="Playwright is not installed")
    with studio_driver.browser() as browser:
        yield browser


@pytest.fixture
def normals(tmp_path: Path) -> SampleSet:
    root, records = tmp_path / "line", []
    for number in range(6):
        image = paint_surface(SURFACES[number % len(SURFACES)], 160, 112, np.random.default_rng(number))
        samples.write_image(root / f"good/{number}.png", image)
        records.append(Sample(f"good/{number}.png", None, GOOD, "good", f"part-{number}", "train"))
    return SampleSet(root, tuple(records))


class Served:
    """The page on a free port; it can be closed and opened again over the same folder."""

    def __init__(self, normals: SampleSet, folder: Path, settings: GenerateConfig) -> None:
        self.normals, self.folder = normals, folder
        data, contract = DataConfig(normals.root), InputContract(64, 96)
        self.config = Config("line", folder, data, contract, seed=5, generate=settings)
        self.open()

    def open(self) -> None:
        from generation.studio import page, parts

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made = parts.assemble(self.config, self.normals, self.folder, self.folder / "tuned", pyramid_features)
        self.session = made.session
        self.blocks, self.worker = page.serve(made, "127.0.0.1", port, open_browser=False, block=False)
        self.url = f"http://127.0.0.1:{port}"

    def close(self) -> None:
        self.blocks.close(verbose=False)


@pytest.fixture
def served(normals: SampleSet, tmp_path: Path) -> Iterator[Served]:
    made = Served(normals, tmp_path / "studio", GenerateConfig())
    yield made
    made.close()


def test_an_expert_marks_paints_judges_and_finds_everything_again_after_a_reload(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    name = studio.choose(2)
    studio.stroke((0.3, 0.3), (0.6, 0.4))
    brushed = int(studio.said().split()[0])
    studio.polygon((0.2, 0.7), (0.5, 0.7), (0.4, 0.9))
    assert int(studio.said().split()[0]) > brushed
    studio.page.click("#allow")
    studio.page.wait_for_function("document.querySelector('#kept').textContent.includes('2 regions')")
    allowed = regions.read(served.folder / "regions.json").allowed(160, 112)
    assert allowed is not None and np.count_nonzero(allowed) == int(studio.said().split()[0])
    studio.fill("person", "Ada")
    studio.fill("kind", "scuff")
    studio.fill("count", "3")
    studio.paint()
    first = studio.wait_for_candidate()
    studio.wait_for_status("idle", "3 of 3 painted")

    studio.page.locator("#view").click(position={"x": 5, "y": 5})
    studio.press("a")
    second = studio.wait_for_candidate(first + 1)
    studio.press("r")
    third = studio.wait_for_candidate(second + 1)
    studio.fill("prompt", "a rare crack")  # a, r and k stand in these words
    assert studio.wait_for_candidate() == third and studio.decision() == ""

    accepted = samples.load(served.folder / "accepted")
    assert len(accepted) == 1
    sample = accepted.samples[0]
    assert (sample.kind, sample.label, sample.source, sample.split) == ("scuff", 1, "memseg", "train")
    assert sample.provenance["accepted_by"] == "Ada" and sample.provenance["normal"]["image"] == name
    normal, made, mask = (
        samples.read_image(served.normals.root / name),
        accepted.read_image(sample),
        accepted.read_mask(sample),
    )
    assert mask.any() and np.array_equal(made[mask == 0], normal[mask == 0]) and (made != normal).any()
    assert np.array_equal(repaint(served.normals.root, sample).image_bgr, made)

    marked = studio.said
    studio.tab("Where")
    before = marked()
    for reopened in (False, True):
        if reopened:  # the process ended and was started again
            served.close()
            served.open()
            studio = Studio(opened, served.url)
        else:
            studio.reload()
        studio.wait_for_board(name)
        studio.wait_for_said(before)
        assert studio.page.input_value("#prompt textarea") == "a rare crack"
        assert studio.page.locator("#person textarea, #person input").first.input_value() == "Ada"
        studio.tab("Judge")
        assert studio.wait_for_candidate() == third, "what was not judged comes back"
        assert studio.page.locator("#candidates figure").count() == 1


def test_before_and_after_are_compared_by_slider_flicker_and_outline(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    studio.choose(0)
    studio.stroke((0.4, 0.4), (0.5, 0.5))
    studio.fill("count", "1")
    studio.paint()
    studio.wait_for_candidate()
    page = studio.page
    clip = "document.querySelector('#view img.after').style.clipPath"
    page.locator("#view input.split").fill("80")
    assert "80%" in page.evaluate(clip)
    page.locator("#view .title").click()
    studio.press("f")
    page.wait_for_function("document.querySelector('#view img.after').style.visibility === 'hidden'")
    page.wait_for_function("document.querySelector('#view img.after').style.visibility === ''")
    studio.press("f")
    assert page.locator("#view button[data-act=flicker].on").count() == 0
    assert not page.locator("#view img.outline").is_visible()
    studio.press("m")
    assert page.locator("#view img.outline").is_visible()
    wide = page.locator("#view .stage").bounding_box()["width"]
    studio.press("z")
    assert page.locator("#view .stage").bounding_box()["width"] != wide


def test_a_decision_can_be_changed_and_the_prompt_book_counts_it(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    studio.choose(1)
    studio.stroke((0.3, 0.5), (0.7, 0.5))
    studio.fill("person", "Ada")
    studio.fill("count", "2")
    studio.paint()
    first = studio.wait_for_candidate()
    studio.wait_for_status("idle", "2 of 2 painted")
    studio.page.click("#accept")
    studio.wait_for_candidate(first + 1)
    studio.page.click("#reject")
    studio.page.check("#which input[value=accepted]")
    studio.wait_for_candidate(first)
    assert studio.decision() == "accepted" and len(samples.load(served.folder / "accepted")) == 1
    studio.tab("Prompt book")
    studio.page.wait_for_selector("#book td")
    assert "1 of 2" in studio.page.inner_text("#book") and studio.page.locator("#book img").count() >= 1
    studio.tab("Judge")
    studio.page.click("#undecide")
    studio.page.wait_for_function("document.querySelector('#view .decision').dataset.decision === ''")
    assert len(samples.load(served.folder / "accepted")) == 0


def test_what_is_missing_is_said_in_one_line_and_nothing_that_was_entered_is_lost(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    studio.paint()
    assert "no picture chosen" in studio.wait_for_status("refused")
    name = studio.choose(0)
    studio.fill("kind", "scratch")
    studio.paint()
    assert "nothing is marked" in studio.wait_for_status("refused", "marked")
    studio.polygon((0.001, 0.001), (0.999, 0.001), (0.999, 0.999), (0.001, 0.999))
    studio.paint()
    assert "covers the whole" in studio.wait_for_status("refused", "covers")
    studio.page.click("#board button[data-act=clear]")
    studio.wait_for_said("nothing marked")
    studio.tool("brush")
    studio.stroke((0.4, 0.4), (0.6, 0.6))
    studio.method("diag")
    studio.model("/no/such/model")
    studio.page.wait_for_function("document.querySelector('#note').textContent.includes('/no/such/model')")
    studio.fill("prompt", "thin scratch")
    studio.paint()
    assert "DIAG cannot paint yet" in studio.wait_for_status("refused", "under Method")
    assert "/no/such/model" in studio.page.inner_text("#note")
    studio.reload()
    studio.wait_for_board(name)
    studio.wait_for_said("px marked")
    assert studio.page.input_value("#kind textarea, #kind input") == "scratch"
    assert studio.page.input_value("#prompt textarea") == "thin scratch"


def test_a_small_local_model_paints_on_the_page_without_a_gpu(opened: Any, normals: SampleSet, tmp_path: Path) -> None:
    import tiny_diffusion

    model = tiny_diffusion.save_sdxl_inpaint(tmp_path / "sdxl")
    settings = GenerateConfig(method="diag", prompts=("white crack",))
    settings = replace(settings, diag=replace(settings.diag, model=str(model), size_px=32, steps=2, batch_size=2))
    served = Served(normals, tmp_path / "studio", settings)
    try:
        studio = Studio(opened, served.url)
        studio.choose(0)
        studio.stroke((0.4, 0.4), (0.6, 0.6))
        assert studio.page.input_value("#prompt textarea") == "white crack", "the config's words stand there"
        studio.fill("person", "Ada")
        studio.fill("count", "3")
        studio.paint()
        number = studio.wait_for_candidate()
        studio.wait_for_status("idle", "3 of 3 painted")
        studio.page.click("#accept")
        studio.wait_for_candidate(number + 1)
        studio.fill("prompt", "something else")
        studio.page.click("#hints button")
        studio.page.wait_for_function("document.querySelector('#prompt textarea').value === 'white crack'")
        sample = samples.load(served.folder / "accepted").samples[0]
        assert sample.source == "diag" and sample.provenance["prompt"] == "white crack"
        assert np.array_equal(
            repaint(normals.root, sample).image_bgr, samples.load(served.folder / "accepted").read_image(sample)
        )
    finally:
        served.close()


def held(work: Callable[..., Any], until: threading.Event) -> Callable[..., Any]:
    """The same work, done late: as on a slow disk."""

    def late(*given: Any, **named: Any) -> Any:
        assert until.wait(30)
        return work(*given, **named)

    return late


def test_a_key_judges_the_picture_that_was_seen_when_it_was_pressed(
    opened: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(opened, served.url)
    studio.choose(0)
    studio.stroke((0.3, 0.3), (0.6, 0.4))
    studio.fill("person", "Ada")
    studio.fill("count", "3")
    studio.paint()
    first = studio.wait_for_candidate()
    studio.wait_for_status("idle", "3 of 3 painted")
    studio.page.locator("#view .title").click()
    answered = threading.Event()
    monkeypatch.setattr(served.session, "decide", held(served.session.decide, answered))
    studio.press("a")
    studio.press("r")  # the next picture is not on the screen yet
    studio.press("j")
    answered.set()
    studio.wait_for_candidate(first + 1)
    studio.press("r")
    studio.wait_for_candidate(first + 2)
    assert [one.decision for one in served.session.candidates()] == ["accepted", "rejected", None]
    assert (served.folder / "decisions.jsonl").read_text().count("\n") == 2


def test_what_is_painted_on_is_what_this_tab_shows(
    opened: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = Studio(opened, served.url)
    name = studio.choose(0)
    studio.fill("person", "Ada")
    studio.fill("count", "1")
    studio.stroke((0.3, 0.3), (0.6, 0.4))
    other = Studio(opened, served.url)
    assert other.choose(3) != name
    saved = threading.Event()
    monkeypatch.setattr(served.session, "save_mask", held(served.session.save_mask, saved))
    studio.stroke((0.2, 0.8), (0.8, 0.8), wait=False)
    studio.paint()
    studio.page.evaluate("fetch('/').then(answer => answer.text())")  # an order that did not wait would be there now
    saved.set()
    number = studio.wait_for_candidate()
    studio.tab("Where")
    studio.wait_for_said("px marked")
    mask = served.session.candidate_mask(number)
    assert served.session.candidates()[0].normal == name
    assert mask is not None and np.count_nonzero(mask) == int(studio.said().split()[0])


def test_an_open_polygon_is_named_and_outlives_a_reload(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    name = studio.choose(0)
    studio.fill("person", "Ada")
    studio.fill("count", "1")
    studio.tool("polygon")
    for corner in ((0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.9, 0.9)):
        studio.page.mouse.click(*studio._at(*corner))
    studio.tool("brush")
    studio.tool("polygon")
    studio.paint()
    assert "4 corners is not closed" in studio.wait_for_status("refused")
    studio.reload()
    studio.wait_for_board(name)
    studio.page.locator("#board .stage").hover()
    studio.press("Control+z")  # the last corner
    studio.press("Enter")
    studio.wait_for_said("px marked")
    marked = int(studio.said().split()[0])
    studio.paint()
    mask = served.session.candidate_mask(studio.wait_for_candidate())
    assert mask is not None and np.count_nonzero(mask) == marked
    assert mask[60, 60] == 255 and mask[140, 98] == 0, "the triangle, without the corner that was taken back"


def test_a_count_that_cannot_be_used_is_said_and_the_last_good_one_is_kept(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    studio.choose(0)
    studio.stroke((0.3, 0.3), (0.6, 0.4))
    studio.fill("person", "Ada")
    studio.fill("count", "2")
    for text, said in (("", "empty"), ("0", "0;"), ("1.5", "1.5;"), ("65", "65;")):
        studio.page.locator("#count input").fill(text)
        studio.paint()
        assert f"count is {said}" in studio.wait_for_status("refused", f"count is {said}")
    studio.fill("kind", "scuff")
    assert served.session.form.count == 2 and served.session.form.kind == "scuff"
    assert not served.session.candidates()


def test_a_picture_that_is_lost_takes_nothing_else_with_it(opened: Any, served: Served) -> None:
    studio = Studio(opened, served.url)
    name = studio.choose(0)
    studio.stroke((0.3, 0.3), (0.6, 0.4))
    studio.fill("person", "Ada")
    studio.fill("count", "1")
    studio.paint()
    number = studio.wait_for_candidate()
    served.close()
    (served.normals.root / name).unlink()
    (served.normals.root / "good/4.png").write_bytes(b"spoiled")
    shown._thumb_of.cache_clear()  # as in a new process
    served.open()
    studio = Studio(opened, served.url)
    studio.wait_for_said("0.png")  # what was on the board, by its name
    studio.tab("Judge")
    studio.wait_for_candidate(number)
    assert "cannot be read any more" in studio.page.inner_text("#view .advice")
    studio.press("a")
    assert "not found" in studio.wait_for_status("refused")
    studio.press("r")
    studio.page.wait_for_selector("#view .none", state="visible")
    assert served.session.candidates()[0].decision == "rejected"
    assert studio.page.locator("#normals figure", has_text="cannot be read").count() == 2
    studio.choose(1)
