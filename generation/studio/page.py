"""The expert's page: choose a good picture, show where, say what, paint, judge, adjust, repeat.

Whatever the page shows is on disk before (`session.py`), so that a reload or another tab shows
the same. A button acts on what its own tab shows when it is pressed: the scripts say which drawing
and which candidate that is. Leaves out: layout (`fields.py`), painting (`worker.py`) and what the
parts show (`shown.py`).
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from diagline.errors import DatasetError, DiaglineError, OutputError
from diagline.samples import SampleSet
from generation.studio import kept_regions, orders, pictures, prompt_book, shown
from generation.studio.fields import MORE, Fields, file
from generation.studio.session import Session
from generation.studio.worker import MakePainter, Score, Worker

_WAITING = -2  # viewer.js: an earlier press is still being answered, so the next picture was not seen yet
_ASK_BOARD = "async (asked, ...rest) => [await window.diaglineBoard(), ...rest]"
_ASK_VIEW = "(looked, ...rest) => [window.diaglineLook(), ...rest]"


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
        _Page(parts, worker).wire(page)
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
            css=file("style.css"),
        )
    except OSError as error:
        raise OutputError(f"port {port} of {host}: cannot be served ({error}); choose another with --port") from error
    return page, worker


class _Page:
    """What happens when the page's fields are used."""

    def __init__(self, parts: Parts, worker: Worker) -> None:
        self.parts, self.worker, self.session = parts, worker, parts.session

    def wire(self, blocks: gr.Blocks) -> None:
        """Lay the fields out and say what each does."""
        see = Fields(self.parts.name, self.session.form, self.save_mask)
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        judged = [see.picked, see.view, see.candidates]
        walls = [see.wall_page, see.normals]
        everything = [*see.form, see.board, *walls, *judged, see.note, see.status, see.seen, see.hints]
        blocks.load(self.restore, None, everything, **quick)
        for field in see.form:
            field.change(self.save, see.form, [see.note], trigger_mode="always_last", **quick)
        see.search.input(lambda text: self.turn(0, text), [see.search], walls, trigger_mode="always_last", **quick)
        for button, step in ((see.back, -1), (see.forth, 1)):
            button.click(self._turning(step), [see.wall_page, see.search], walls, **quick)
        chosen = [see.board, see.normals, see.tabs, see.refused]
        see.normals.pick(self.choose, [see.wall_page, see.search], chosen, **quick)
        see.paint.click(self.order, [see.asked, *see.form], [see.status, see.refused], js=_ASK_BOARD, **quick)
        see.cancel.click(self.worker.cancel, None, None, **quick)
        see.timer.tick(self.tick, [see.seen, see.picked, see.which], [see.seen, see.status, *judged, see.tabs], **quick)
        see.which.input(self.look, [see.which], judged, **quick)
        see.candidates.pick(self.pick, [see.which], judged, **quick)
        for button, decision in ((see.accept, "accepted"), (see.reject, "rejected"), (see.undecide, None)):
            wanted, found = [see.looked, see.which, see.person], [*judged, see.refused, see.hints]
            button.click(self._decision(decision), wanted, found, js=_ASK_VIEW, trigger_mode="multiple", **quick)
        for button, step in ((see.next, 1), (see.previous, -1)):
            wanted = [see.looked, see.which]
            button.click(self._step(step), wanted, judged, js=_ASK_VIEW, trigger_mode="multiple", **quick)
        for button, role in ((see.allow, "allow"), (see.exact, "mask")):
            button.click(self._keeping(role), [see.asked, see.kind], [see.kept], js=_ASK_BOARD, **quick)
        see.book_tab.select(self.open_book, None, [see.book], **quick)
        used = [see.prompt, see.negative, see.method, see.tabs, see.refused]
        see.book.pick(self.use, None, used, **quick)
        see.hints.pick(self.use, None, used, **quick)

    def restore(self) -> list[Any]:
        """Everything as it is on disk."""
        form = self.session.form
        words = [form.prompt, form.negative_prompt, form.kind, form.method, form.model, form.count, form.person]
        more = [form.settings.get(name, 0) for name in MORE]
        note, status = self._note(form.method, form.model), self.worker.status
        walls = [*self.turn(0, ""), *self.look(shown.FILTERS[0])]
        return [*words, *more, self._board(), *walls, note, shown.progress(status), status.version, self._hints()]

    def save(self, *fields: Any) -> str:
        """Keep the form; the note says what stands in the way of painting."""
        form = orders.form_of(self.session.form, fields, tuple(MORE))
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

    def turn(self, page: int, text: str) -> tuple[int, str]:
        """A page of the normals."""
        tiles, page, _ = shown.normals_page(self.parts.normals, text, page, self.session.form.normal)
        return page, tiles

    def choose(self, page: int, text: str, event: gr.EventData) -> list[Any]:
        """Put a normal on the drawing board; each has a mask of its own."""
        try:
            self.session.save_form(replace(self.session.form, normal=event.key))
        except DiaglineError as error:
            return [*[gr.skip()] * 3, shown.refusal(str(error))]
        return [self._board(), self.turn(page, text)[1], gr.Tabs(selected="paint"), ""]

    def order(self, asked: str, *fields: Any) -> list[str]:
        """Begin painting on what this tab shows, or say in one line what is missing."""
        try:
            board = orders.Board.read(asked)
            before = self.session.form
            form = orders.form_of(replace(before, normal=board.normal or before.normal), fields, tuple(MORE))
            self.session.save_form(form)
            board.check()
            orders.count_of(fields[orders.COUNT])
            self.worker.start(form, *orders.needed(form, self.session, self.parts.normals, self.parts.check_method))
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

    def go(self, looked: int, which: str, step: int) -> list[Any]:
        """The next younger (1) or older (-1) candidate of the filter; at the end the same one."""
        if looked == _WAITING:
            return [gr.skip()] * 3
        numbers = sorted(one.number for one in shown.wanted(self.session.candidates(), which))
        beyond = [n for n in numbers if looked < 0 or (n > looked if step > 0 else n < looked)]
        if not beyond:
            return self._at(looked if looked > 0 else None, which)
        return self._at(beyond[0] if step > 0 else beyond[-1], which)

    def decide(self, looked: int, which: str, person: str, decision: str | None) -> list[Any]:
        """Accept, reject or undo what is on the screen, and go on to the next one to judge."""
        if looked == _WAITING:
            return [gr.skip()] * 5
        try:
            if looked < 0:
                raise DatasetError("nothing is looked at; choose a picture below")
            self.session.decide(looked, decision, person)
        except DiaglineError as error:
            return [*self._at(looked if looked > 0 else None, which), shown.refusal(str(error)), gr.skip()]
        numbers = sorted(one.number for one in self.session.undecided())
        after = [n for n in numbers if n > looked] or numbers
        then = looked if decision is None else after[0] if after else None
        return [*self._at(then, which), "", self._hints()]

    def _decision(self, decision: str | None) -> Callable[..., list[Any]]:
        return lambda looked, which, person: self.decide(int(looked), which, person, decision)

    def _step(self, step: int) -> Callable[..., list[Any]]:
        return lambda looked, which: self.go(int(looked), which, step)

    def _turning(self, step: int) -> Callable[..., tuple[int, str]]:
        return lambda page, text: self.turn(page + step, text)

    def _keeping(self, role: str) -> Callable[[str, str], str]:
        path = self.session.folder / "regions.json"

        def keep(asked: str, kind: str) -> str:
            try:
                board = orders.Board.read(asked)
                board.check()
                mask = self.session.mask(board.normal)
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
        """Put the words of an entry of the book into the form."""
        prompt, negative, method = json.loads(event.key)
        try:
            self.session.save_form(replace(self.session.form, prompt=prompt, negative_prompt=negative, method=method))
        except DiaglineError as error:
            return [*[gr.skip()] * 4, shown.refusal(str(error))]
        return [prompt, negative, method, gr.Tabs(selected="paint"), ""]

    def _hints(self) -> str:
        return shown.hints(prompt_book.entries(self.session.candidates()))

    def _board(self) -> dict[str, Any]:
        return shown.board(self.session, self.parts.normals)

    def _at(self, number: int | None, which: str) -> list[Any]:
        return [number, shown.viewer(self.session, number), shown.candidates_wall(self.session, which, number)]

    def _note(self, method: str, model: str) -> str:
        return shown.note(method, {name: self.parts.check_method(name, model) for name in shown.METHODS})
