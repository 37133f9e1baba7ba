"""The expert's page: choose a good picture, show where, say what, paint, judge, adjust, repeat.

Gradio lays out fields and buttons; the drawing board and the before/after view are its HTML
parts with scripts of our own (`canvas.js`, `viewer.js`). Whatever the page shows is on disk
before (`session.py`), so that a reload or another tab shows the same. Leaves out: painting
(`worker.py`) and what the parts show (`shown.py`).
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from diagline.errors import DatasetError, DiaglineError, GenerationError, OutputError
from diagline.samples import Sample, SampleSet
from generation import masks
from generation.painting import Image
from generation.studio import kept_regions, pictures, prompt_book, shown
from generation.studio.session import Form, Session
from generation.studio.worker import MakePainter, Score, Worker

HERE = Path(__file__).parent
TICK_S = 0.4
MOST = 64  # pictures an order
MORE = {
    "steps": "Steps (0: as the config says)",
    "guidance": "Guidance, how closely it follows the words (0: config)",
    "strength": "Strength, how much of the surface it replaces (0: config; DIAG only)",
}
METHODS = {"memseg": "MemSeg", "diag": "DIAG", "in_and_out": "In&Out"}
NOTES = {
    "memseg": "Fills the place with the part's own shuffled, recoloured surface. Needs no words and no model.",
    "diag": "Paints what the words say inside the place, with an inpainting model.",
    "in_and_out": "Paints whole pictures from words, and MemSeg's among them.",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the page is made of.

    Attributes:
        name: the line's.
        normals: good pictures to paint on.
        session: the state on disk.
        make_painter: the method a form asks for; called in the background, may raise a DiaglineError.
        check_method: one line on why a method cannot paint with this model, "" when it can; quick.
        score: the quality gate's advice on a picture; None: no advice.
    """

    name: str
    normals: SampleSet
    session: Session
    make_painter: MakePainter
    check_method: Callable[[str, str], str]
    score: Score | None = None


def build(parts: Parts) -> tuple[gr.Blocks, Worker]:
    """The page, and the worker behind it."""
    worker = Worker(parts.session, parts.make_painter, parts.score)
    with gr.Blocks(title=f"diagline studio: {parts.name}", analytics_enabled=False, fill_width=True) as page:
        _Page(parts, worker).lay_out(page)
    return page, worker


def serve(parts: Parts, host: str, port: int, open_browser: bool, block: bool = True) -> tuple[gr.Blocks, Worker]:
    """Serve the page until Ctrl-C (`block`), or return once it answers.

    Raises:
        OutputError: the port is taken.
    """
    page, worker = build(parts)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            quiet=True,
            prevent_thread_lock=not block,
            show_error=True,
            footer_links=[],
            theme=gr.themes.Default(
                primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=_file("style.css"),
        )
    except OSError as error:
        raise OutputError(f"port {port} of {host}: cannot be served ({error}); choose another with --port") from error
    return page, worker


class _Page:
    """The page's fields and what happens when they are used."""

    def __init__(self, parts: Parts, worker: Worker) -> None:
        self.parts, self.worker, self.session = parts, worker, parts.session
        self._by_name = {sample.image: sample for sample in parts.normals}

    def lay_out(self, blocks: gr.Blocks) -> None:
        """Fields from left to right: which picture, where and the result, what."""
        form = self.session.form
        self.picked = gr.State(None)  # number of the candidate that is looked at
        self.seen = gr.State(-1)  # version of the work's status that this tab shows
        self.wall_page = gr.State(0)

        def save_mask(drawn: list[str]) -> str:  # gradio marks it, and a method cannot be marked
            return self.save_mask(*drawn)

        gr.HTML(f"<h1>diagline studio</h1><span>{self.parts.name}</span>", elem_id="head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=230):
                gr.HTML('<div class="step"><b>1</b>A good part</div>')
                self.search = gr.Textbox(
                    placeholder="find by name", show_label=False, container=False, elem_id="search"
                )
                self.normals = self._tiles("normals", "wall short")
                with gr.Row():
                    self.back = gr.Button("Earlier", size="sm", min_width=60, elem_id="back")
                    self.forth = gr.Button("Later", size="sm", min_width=60, elem_id="forth")
            with gr.Column(scale=6, min_width=420), gr.Tabs(selected="paint") as self.tabs:
                with gr.Tab("2  Where", id="paint", elem_id="tab-paint"):
                    self.board = gr.HTML(
                        html_template=_file("canvas.html"),
                        js_on_load=_file("canvas.js"),
                        server_functions=[save_mask],
                        elem_id="board",
                    )
                    with gr.Row(elem_id="keep"):
                        self.allow = gr.Button("Keep as a place for defects", size="sm", elem_id="allow")
                        self.exact = gr.Button("Keep as a defect's exact mask", size="sm", elem_id="exact")
                    self.kept = gr.HTML(elem_id="kept")
                with gr.Tab("4  Judge", id="judge", elem_id="tab-judge"):
                    self._lay_out_judge()
                with gr.Tab("Prompt book", id="book", elem_id="tab-book") as self.book_tab:
                    self.book = self._tiles("book", "book")
            with gr.Column(scale=3, min_width=300):
                gr.HTML('<div class="step"><b>3</b>What goes wrong there</div>')
                words = "thin bright scratch on brushed metal"
                self.prompt = gr.Textbox(form.prompt, label="Words", lines=2, placeholder=words, elem_id="prompt")
                self.negative = gr.Textbox(form.negative_prompt, label="Not", lines=1, elem_id="negative")
                with gr.Row():
                    self.kind = gr.Textbox(
                        form.kind, label="Defect", placeholder="scratch", min_width=120, elem_id="kind"
                    )
                    self.person = gr.Textbox(form.person, label="Your name", min_width=120, elem_id="person")
                named = [(text, name) for name, text in METHODS.items()]
                self.method = gr.Radio(named, value=form.method, label="Method", elem_id="method")
                self.note = gr.HTML(elem_id="note")
                with gr.Row(equal_height=True):
                    self.count = gr.Number(
                        form.count,
                        label="Count",
                        minimum=1,
                        maximum=MOST,
                        precision=0,
                        min_width=80,
                        elem_id="count",
                    )
                    self.paint = gr.Button("Paint", variant="primary", min_width=110, elem_id="paint")
                    self.cancel = gr.Button("Cancel", min_width=80, elem_id="cancel")
                self.refused = gr.HTML(elem_id="refused")
                self.status = gr.HTML(elem_id="status")
                with gr.Accordion("Model and more", open=False, elem_id="more"):
                    self.model = gr.Textbox(
                        form.model, label="Model", placeholder="folder or hub id; empty: the config's", elem_id="model"
                    )
                    self.more = {name: gr.Number(form.settings.get(name, 0), label=text) for name, text in MORE.items()}
        self.timer = gr.Timer(TICK_S)
        self._wire(blocks)

    def _lay_out_judge(self) -> None:
        with gr.Row():
            self.reject = gr.Button("Reject  R", min_width=90, elem_id="reject")
            self.undecide = gr.Button("Undo  U", min_width=80, elem_id="undecide")
            self.accept = gr.Button("Accept  A", min_width=90, elem_id="accept")
            self.previous = gr.Button("Back  K", min_width=90, elem_id="previous")
            self.next = gr.Button("Next  J", min_width=90, elem_id="next")
        self.view = gr.HTML(html_template=_file("viewer.html"), js_on_load=_file("viewer.js"), elem_id="view")
        self.which = gr.Radio(shown.FILTERS, value=shown.FILTERS[0], show_label=False, container=False, elem_id="which")
        self.candidates = self._tiles("candidates", "wall strip")

    def _tiles(self, name: str, classes: str) -> gr.HTML:
        template = f'<div class="{classes}">${{value}}</div>'
        return gr.HTML("", html_template=template, js_on_load=_file("tiles.js"), elem_id=name)

    @property
    def _fields(self) -> list[Any]:
        words = [self.prompt, self.negative, self.kind, self.method, self.model, self.count, self.person]
        return [*words, *self.more.values()]

    def _wire(self, blocks: gr.Blocks) -> None:
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        judged = [self.picked, self.view, self.candidates]
        walls = [self.wall_page, self.normals]
        everything = [*self._fields, self.board, *walls, *judged, self.note, self.status, self.seen]
        blocks.load(self.restore, None, everything, **quick)
        for field in self._fields:
            field.change(self.save, self._fields, [self.note], trigger_mode="always_last", **quick)
        self.search.input(self.turn_search, [self.search], walls, trigger_mode="always_last", **quick)
        self.back.click(lambda page, text: self.turn(page - 1, text), [self.wall_page, self.search], walls, **quick)
        self.forth.click(lambda page, text: self.turn(page + 1, text), [self.wall_page, self.search], walls, **quick)
        self.normals.pick(self.choose, [self.wall_page, self.search], [self.board, self.normals, self.tabs], **quick)
        self.paint.click(self.order, self._fields, [self.status, self.refused], **quick)
        self.cancel.click(self.worker.cancel, None, None, **quick)
        self.timer.tick(
            self.tick, [self.seen, self.picked, self.which], [self.seen, self.status, *judged, self.tabs], **quick
        )
        self.which.input(self.look, [self.which], judged, **quick)
        self.candidates.pick(self.pick, [self.which], judged, **quick)
        for button, decision in ((self.accept, "accepted"), (self.reject, "rejected"), (self.undecide, None)):
            wanted, found = [self.picked, self.which, self.person], [*judged, self.refused]
            button.click(self._decision(decision), wanted, found, trigger_mode="multiple", **quick)
        for button, step in ((self.next, 1), (self.previous, -1)):
            button.click(self._step(step), [self.picked, self.which], judged, trigger_mode="multiple", **quick)
        for button, role in ((self.allow, "allow"), (self.exact, "mask")):
            button.click(self._keeping(role), [self.kind], [self.kept], **quick)
        self.book_tab.select(self.open_book, None, [self.book], **quick)
        self.book.pick(self.use, None, [self.prompt, self.negative, self.method, self.tabs], **quick)

    def restore(self) -> list[Any]:
        """Everything as it is on disk."""
        form = self.session.form
        words = [form.prompt, form.negative_prompt, form.kind, form.method, form.model, form.count, form.person]
        more = [form.settings.get(name, 0) for name in MORE]
        note = self._note(form.method, form.model)
        status = self.worker.status
        walls = [*self.turn(0, ""), *self.look(shown.FILTERS[0])]
        return [*words, *more, self._board(), *walls, note, shown.progress(status), status.version]

    def save(self, *fields: Any) -> str:
        """Keep the form; the note says what stands in the way of painting."""
        form = self._form(*fields)
        try:
            self.session.save_form(form)
        except DiaglineError as error:
            return shown.refusal(str(error))
        return self._note(form.method, form.model)

    def save_mask(self, normal: str, address: str) -> str:
        """Keep the drawing; "" or one line that says why not. Called by the drawing board."""
        try:
            self.session.save_mask(pictures.mask_of(address), normal)
        except DiaglineError as error:
            return " ".join(str(error).split())
        return ""

    def turn_search(self, text: str) -> tuple[int, str]:
        """The first page of the normals that a text finds."""
        return self.turn(0, text)

    def turn(self, page: int, text: str) -> tuple[int, str]:
        """A page of the normals."""
        tiles, page, _ = shown.normals_page(self.parts.normals, text, page, self.session.form.normal)
        return page, tiles

    def choose(self, page: int, text: str, event: gr.EventData) -> tuple[Any, str, Any]:
        """Put a normal on the drawing board; each has a mask of its own."""
        self.session.save_form(replace(self.session.form, normal=event.key))
        return self._board(), self.turn(page, text)[1], gr.Tabs(selected="paint")

    def order(self, *fields: Any) -> list[str]:
        """Begin painting, or say in one line what is missing."""
        form = self._form(*fields)
        try:
            self.session.save_form(form)
            normal, image, mask = self._ordered(form)
            self.worker.start(form, normal, image, mask)
        except DiaglineError as error:
            return [shown.progress(self.worker.status), shown.refusal(str(error))]
        return [shown.progress(self.worker.status), ""]

    def tick(self, seen: int, picked: int | None, which: str) -> list[Any]:
        """News of the work since this tab last looked."""
        status = self.worker.status
        if status.version == seen:
            return [gr.skip()] * 6
        first = picked is None and status.done > 0
        tabs = gr.Tabs(selected="judge") if first else gr.skip()
        if first:
            return [status.version, shown.progress(status), *self.look(which), tabs]
        wall = shown.candidates_wall(self.session, which, picked)
        return [status.version, shown.progress(status), gr.skip(), gr.skip(), wall, tabs]

    def look(self, which: str) -> list[Any]:
        """The oldest candidate of a filter."""
        found = shown.wanted(self.session.candidates(), which)
        return self._at(found[-1].number if found else None, which)

    def pick(self, which: str, event: gr.EventData) -> list[Any]:
        """The candidate that was clicked."""
        return self._at(int(event.key), which)

    def go(self, picked: int | None, which: str, step: int) -> list[Any]:
        """The next younger (1) or older (-1) candidate of the filter."""
        numbers = sorted(one.number for one in shown.wanted(self.session.candidates(), which))
        beyond = [n for n in numbers if picked is None or (n > picked if step > 0 else n < picked)]
        if not beyond:
            return [gr.skip()] * 3
        return self._at(beyond[0] if step > 0 else beyond[-1], which)

    def decide(self, picked: int | None, which: str, person: str, decision: str | None) -> list[Any]:
        """Accept, reject or undo, and go on to the next one to judge."""
        if picked is None:
            return [*[gr.skip()] * 3, shown.refusal("nothing is looked at; choose a picture below")]
        try:
            self.session.decide(picked, decision, person)
        except DiaglineError as error:
            return [*[gr.skip()] * 3, shown.refusal(str(error))]
        if decision is None:
            return [*self._at(picked, which), ""]
        numbers = sorted(one.number for one in self.session.undecided())
        after = [n for n in numbers if n > picked] or numbers
        return [*self._at(after[0] if after else None, which), ""]

    def _decision(self, decision: str | None) -> Callable[..., list[Any]]:
        def decide(picked: int | None, which: str, person: str) -> list[Any]:
            return self.decide(picked, which, person, decision)

        return decide

    def _step(self, step: int) -> Callable[..., list[Any]]:
        def go(picked: int | None, which: str) -> list[Any]:
            return self.go(picked, which, step)

        return go

    def _keeping(self, role: str) -> Callable[[str], str]:
        path = self.session.folder / "regions.json"

        def keep(kind: str) -> str:
            mask = self.session.mask()
            try:
                if mask is None:
                    raise DatasetError("nothing is marked; paint the place first, with brush or polygon")
                kept = kept_regions.keep(path, mask, kind.strip() or "region", role)
            except DiaglineError as error:
                return shown.refusal(str(error))
            masks = " generate.masks=regions" if role == "mask" else ""
            return f"{len(kept.regions)} regions in {html.escape(str(path))}; use: --set generate.regions=FILE{masks}"

        return keep

    def open_book(self) -> str:
        """The prompt book as it is now."""
        return shown.book(self.session, prompt_book.entries(self.session.candidates()))

    def use(self, event: gr.EventData) -> list[Any]:
        """Put the words of a row of the book into the form."""
        entry = prompt_book.entries(self.session.candidates())[int(event.key)]
        self.session.save_form(
            replace(self.session.form, prompt=entry.prompt, negative_prompt=entry.negative_prompt, method=entry.method)
        )
        return [entry.prompt, entry.negative_prompt, entry.method, gr.Tabs(selected="paint")]

    def _form(self, *fields: Any) -> Form:
        prompt, negative, kind, method, model, count, person, *more = fields
        settings = {name: value for name, value in zip(MORE, more, strict=True) if value}
        return Form(
            normal=self.session.form.normal,
            prompt=(prompt or "").strip(),
            negative_prompt=(negative or "").strip(),
            kind=(kind or "").strip(),
            method=method,
            model=(model or "").strip(),
            count=int(count),
            person=(person or "").strip(),
            settings=settings,
        )

    def _ordered(self, form: Form) -> tuple[Sample, Image, Image | None]:
        """The normal and mask of an order; raises a DiaglineError that says what is missing."""
        normal = self._by_name.get(form.normal)
        if normal is None:
            raise DatasetError("no picture chosen; choose a good part on the left")
        if not form.person:
            raise DatasetError("no name; say who you are, it is kept with every decision")
        if form.method != "memseg" and not form.prompt:
            raise GenerationError(f"no words; {form.method} paints what they say; write what goes wrong there")
        broken = self.parts.check_method(form.method, form.model)
        if broken:
            raise GenerationError(broken)
        image, mask = self.parts.normals.read_image(normal), self.session.mask()
        if mask is None or not mask.any():
            if form.method == "in_and_out":
                return normal, image, None  # whole pictures; its superimposed share draws its own masks
            raise DatasetError("nothing is marked; paint the region where the defect goes, with brush or polygon")
        masks.check_mask(mask, image, "your drawing")
        return normal, image, mask

    def _board(self) -> dict[str, Any]:
        return shown.board(self.session, self.parts.normals)

    def _at(self, number: int | None, which: str) -> list[Any]:
        return [number, shown.viewer(self.session, number), shown.candidates_wall(self.session, which, number)]

    def _note(self, method: str, model: str) -> str:
        broken = self.parts.check_method(method, model)
        return f'<span class="bad">{html.escape(broken)}</span>' if broken else NOTES[method]


def _file(name: str) -> str:
    return (HERE / name).read_text()
