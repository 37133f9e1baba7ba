"""The page's fields and where they stand: which picture on the left, where and the result, what on the right.

The drawing board and the before/after view are Gradio's HTML parts with scripts of our own
(`canvas.js`, `viewer.js`). Leaves out: what happens when they are used (`page.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from generation.studio import shown
from generation.studio.session import Form

HERE = Path(__file__).parent
TICK_S = 0.4
MORE = {
    "steps": "Steps (0: as the config says)",
    "guidance": "Guidance, how closely it follows the words (0: config)",
    "strength": "Strength, how much of the surface it replaces (0: config; DIAG only)",
}


def file(name: str) -> str:
    """A file of the page's own."""
    return (HERE / name).read_text(encoding="utf-8")


class Fields:
    """Lays the fields out inside an open `gr.Blocks`.

    Args:
        name: the line's.
        form: what stands in them at first.
        save_mask: takes a normal and a drawing as a PNG data address; "" or one line on why it cannot be kept.
    """

    def __init__(self, name: str, form: Form, save_mask: Callable[[str, str], str]) -> None:
        self.picked = gr.State(None)  # number of the candidate that is looked at
        self.seen = gr.State(-1)  # version of the work's status that this tab shows
        self.wall_page = gr.State(0)
        self.asked = gr.Textbox(visible="hidden")  # what the board's script says when a button is pressed
        self.looked = gr.Number(visible="hidden")  # the candidate on the screen when a button is pressed
        gr.HTML(f"<h1>diagline studio</h1><span>{name}</span>", elem_id="head")
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
                    self._lay_out_board(save_mask)
                with gr.Tab("4  Judge", id="judge", elem_id="tab-judge"):
                    self._lay_out_judge()
                with gr.Tab("Prompt book", id="book", elem_id="tab-book") as self.book_tab:
                    self.book = self._tiles("book", "book")
            with gr.Column(scale=3, min_width=300):
                self._lay_out_words(form)
        self.timer = gr.Timer(TICK_S)

    @property
    def form(self) -> list[Any]:
        """The fields of the form, in `orders.form_of`'s order."""
        words = [self.prompt, self.negative, self.kind, self.method, self.model, self.count, self.person]
        return [*words, *self.more.values()]

    def _lay_out_board(self, keep: Callable[[str, str], str]) -> None:
        def save_mask(drawn: list[str]) -> str:  # gradio marks it, and a method cannot be marked
            return keep(*drawn)

        self.board = gr.HTML(
            html_template=file("canvas.html"),
            js_on_load=file("canvas.js"),
            server_functions=[save_mask],
            elem_id="board",
        )
        with gr.Row(elem_id="keep"):
            self.allow = gr.Button("Keep as a place for defects", size="sm", elem_id="allow")
            self.exact = gr.Button("Keep as a defect's exact mask", size="sm", elem_id="exact")
        self.kept = gr.HTML(elem_id="kept")

    def _lay_out_judge(self) -> None:
        with gr.Row():
            self.reject = gr.Button("Reject  R", min_width=90, elem_id="reject")
            self.undecide = gr.Button("Undo  U", min_width=80, elem_id="undecide")
            self.accept = gr.Button("Accept  A", min_width=90, elem_id="accept")
            self.previous = gr.Button("Back  K", min_width=90, elem_id="previous")
            self.next = gr.Button("Next  J", min_width=90, elem_id="next")
        self.view = gr.HTML(html_template=file("viewer.html"), js_on_load=file("viewer.js"), elem_id="view")
        self.which = gr.Radio(shown.FILTERS, value=shown.FILTERS[0], show_label=False, container=False, elem_id="which")
        self.candidates = self._tiles("candidates", "wall strip")

    def _lay_out_words(self, form: Form) -> None:
        gr.HTML('<div class="step"><b>3</b>What goes wrong there</div>')
        words = "thin bright scratch on brushed metal"
        self.prompt = gr.Textbox(form.prompt, label="Words", lines=2, placeholder=words, elem_id="prompt")
        self.negative = gr.Textbox(form.negative_prompt, label="Not", lines=1, elem_id="negative")
        self.hints = self._tiles("hints", "hints")
        with gr.Row():
            self.kind = gr.Textbox(form.kind, label="Defect", placeholder="scratch", min_width=120, elem_id="kind")
            self.person = gr.Textbox(form.person, label="Your name", min_width=120, elem_id="person")
        named = [(text, name) for name, text in shown.METHODS.items()]
        self.method = gr.Radio(named, value=form.method, label="Method", elem_id="method")
        self.note = gr.HTML(elem_id="note")
        with gr.Row(equal_height=False, elem_id="go"):
            self.count = gr.Number(form.count, label="Count", min_width=80, elem_id="count")
            self.paint = gr.Button("Paint", variant="primary", min_width=110, elem_id="paint")
            self.cancel = gr.Button("Cancel", min_width=80, elem_id="cancel")
        self.refused = gr.HTML(elem_id="refused")
        self.status = gr.HTML(elem_id="status")
        with gr.Accordion("Model and more", open=False, elem_id="more"):
            self.model = gr.Textbox(
                form.model, label="Model", placeholder="folder or hub id; empty: the config's", elem_id="model"
            )
            self.more = {name: gr.Number(form.settings.get(name, 0), label=text) for name, text in MORE.items()}

    @staticmethod
    def _tiles(name: str, classes: str) -> gr.HTML:
        template = f'<div class="{classes}">${{value}}</div>'
        return gr.HTML("", html_template=template, js_on_load=file("tiles.js"), elem_id=name)
