"""What the page's own parts show: plain data and HTML made of the session.

Pure functions, so that they are tested without a browser. Leaves out: layout and events (`page.py`).
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diagline.errors import DatasetError
from diagline.samples import SPLITS, Sample, SampleSet, read_image
from generation.painting import Image
from generation.studio import pictures
from generation.studio.prompt_book import Entry
from generation.studio.session import Candidate, Session
from generation.studio.worker import Status

NORMALS_A_PAGE = 24
WALL = 48
BOOK_PICTURES = 6
HINTS = 3
METHODS = {"memseg": "MemSeg", "diag": "DIAG", "in_and_out": "In&Out"}
NOTES = {
    "memseg": "Fills the place with the part's own shuffled, recoloured surface. Needs no words and no model.",
    "diag": "Paints what the words say inside the place, with an inpainting model.",
    "in_and_out": "Paints whole pictures from words, and MemSeg's among them.",
}
FILTERS = ("to judge", "accepted", "rejected", "all")
_DECISIONS: dict[str, tuple[str | None, ...]] = {
    "to judge": (None,),
    "accepted": ("accepted",),
    "rejected": ("rejected",),
    "all": (None, "accepted", "rejected"),
}
_turns = itertools.count()


def normals_page(normals: SampleSet, search: str, page: int, chosen: str) -> tuple[str, int, int]:
    """One page of good pictures as HTML, the page's number within bounds, and how many there are.

    Those of the training split come first.
    """
    found = [sample for sample in normals if search.strip().lower() in sample.image.lower()]
    found.sort(key=lambda sample: SPLITS.index(sample.split))
    pages = max(1, -(-len(found) // NORMALS_A_PAGE))
    page = min(max(page, 0), pages - 1)
    here = found[page * NORMALS_A_PAGE : (page + 1) * NORMALS_A_PAGE]
    tiles = [
        _tile(sample.image, _normal_thumb(normals, sample), Path(sample.image).stem, sample.image == chosen)
        for sample in here
    ]
    return _wall(tiles, "no picture has that name"), page, pages


def board(session: Session, normals: SampleSet) -> dict[str, Any]:
    """The drawing board: the chosen normal and the mask that is being drawn on it, or why it cannot be shown."""
    name = session.form.normal
    sample = next((one for one in normals if one.image == name), None)
    if sample is None:
        return {"normal": "", "image": ""}
    try:
        image, mask = normals.read_image(sample), session.mask(name)
    except DatasetError as error:
        return {"normal": "", "image": "", "broken": " ".join(str(error).split())}
    return {
        "normal": name,
        "image": pictures.whole(image),
        "width": image.shape[1],
        "height": image.shape[0],
        "mask": None if mask is None or mask.shape != image.shape[:2] else pictures.whole(mask),
    }


def wanted(candidates: Sequence[Candidate], which: str) -> list[Candidate]:
    """The candidates of a filter, newest first."""
    return [one for one in reversed(candidates) if one.decision in _DECISIONS[which]]


def candidates_wall(session: Session, which: str, chosen: int | None) -> str:
    """Small pictures of the candidates of a filter."""
    found = wanted(session.candidates(), which)
    tiles = [
        _tile(
            str(one.number),
            _candidate_thumb(session, one.number),
            f"#{one.number} {one.kind or one.method}",
            one.number == chosen,
            one.decision or "",
            one.reason is not None,
        )
        for one in found[:WALL]
    ]
    more = f"<p>and {len(found) - WALL} older ones</p>" if len(found) > WALL else ""
    return _wall(tiles, "nothing here: paint something, or look at another list") + more


def viewer(session: Session, number: int | None) -> dict[str, Any]:
    """Before and after of one candidate."""
    one = next((one for one in session.candidates() if one.number == number), None)
    answer = {"turn": next(_turns)}  # no two answers are equal, so that the page knows of each
    if one is None:
        return {"number": -1, **answer}
    try:
        after, mask = session.image(one.number), session.candidate_mask(one.number)
    except DatasetError as error:
        return {"number": -1, "broken": " ".join(str(error).split()), **answer}
    said, gone = advice(one), False
    try:
        before = pictures.whole(session.normal_image(one.number))
    except DatasetError:
        gone = True
        before, said = "", f"the good part {one.normal} cannot be read any more: restore it to compare, or to accept"
    decided = f"{one.decision} by {one.person}" if one.decision else "to judge"
    return {
        "number": one.number,
        **answer,
        "before": before,
        "after": pictures.whole(after),
        "outline": None if mask is None else pictures.outline(mask),
        "box": None if mask is None else pictures.box(mask),
        "width": after.shape[1],
        "height": after.shape[0],
        "title": f"#{one.number} {one.kind or one.method}",
        "words": "" if one.method == "memseg" else one.prompt,
        "advice": said,
        "doubtful": gone or one.reason is not None,
        "decided": decided,
        "decision": one.decision or "",
    }


def advice(one: Candidate) -> str:
    """The quality gate's word on a candidate."""
    if one.reason is not None:
        return f"the gate would reject it: {one.reason}"
    names = (("visibility", "change {:.1f} times what good surface shows"), ("distance", "distance {:.2f}"))
    said = [text.format(one.scores[name]) for name, text in names if one.scores.get(name) is not None]
    return "the gate would keep it: " + ", ".join(said) if said else ""


def progress(status: Status) -> str:
    """The state of the work, with its bar and estimate."""
    error = f'<div class="bad">{html.escape(status.error)}</div>' if status.error else ""
    left = f", about {status.left_s:.0f} s left" if status.running and status.left_s is not None else ""
    share = 100 * status.done / status.total if status.total else 0
    bar = f'<div class="line"><i style="width:{share:.0f}%"></i></div>' if status.total else ""
    count = f" {status.done} of {status.total}" if status.running else ""
    state = "running" if status.running else "idle"
    return f'<div data-state="{state}">{html.escape(status.words)}{count}{left}{bar}{error}</div>'


def refusal(message: str) -> str:
    """One line that says what is wrong."""
    return f'<div data-state="refused"><span class="bad">{html.escape(" ".join(message.split()))}</span></div>'


def note(method: str, broken: Mapping[str, str]) -> str:
    """What a method does, or why it cannot paint; the methods that cannot are grey.

    Args:
        broken: of each method one line on why it cannot, "" when it can.
    """
    grey = [name for name, why in broken.items() if why]
    rules = "".join(f"#method label:has(input[value={name}]) {{ opacity: 0.5; }}" for name in grey)
    others = [METHODS[name] for name in grey if name != method]
    more = f" {' and '.join(others)} cannot paint yet: choose one to read why." if others else ""
    why = f'<span class="bad">{html.escape(broken[method])}</span> (or write its folder under "Model and more").'
    said = why if broken[method] else html.escape(NOTES[method])
    return f"<style>{rules}</style>{said}{html.escape(more)}"


def hints(entries: Sequence[Entry]) -> str:
    """The words that were accepted most, best first; a click puts them into the form."""
    best = [entry for entry in entries if entry.prompt and entry.accepted][:HINTS]
    return "".join(
        f'<button data-key="{_words(entry)}" title="{html.escape(entry.prompt, quote=True)}: '
        f'{entry.accepted} of {entry.accepted + entry.rejected} accepted"><span>{html.escape(entry.prompt)}</span>'
        f"<b>{entry.rate:.0%}</b></button>"
        for entry in best
    )


def _words(entry: Entry) -> str:
    """An entry's words and method as a tile's key: the book may have another order when it is clicked."""
    return html.escape(json.dumps([entry.prompt, entry.negative_prompt, entry.method]), quote=True)


def book(session: Session, entries: Sequence[Entry]) -> str:
    """The prompt book as a table; a row's button puts its words into the form."""
    if not entries:
        return "<p>Every prompt that was tried will stand here with its share of accepted pictures.</p>"
    rows = "".join(_row(session, entry) for entry in entries)
    head = "".join(f"<th>{name}</th>" for name in ("prompt", "accepted", "of judged", "painted", "pictures", ""))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(session: Session, entry: Entry) -> str:
    judged = entry.accepted + entry.rejected
    rate = "" if entry.rate is None else f"{entry.rate:.0%}"
    bar = ""
    if entry.rate is not None:
        spread = f'<u style="left:{entry.low:.0%};width:{entry.high - entry.low:.0%}"></u>'
        bar = f'<div class="rate" title="95 % interval {entry.low:.0%} to {entry.high:.0%}">'
        bar += f'<i style="width:{entry.rate:.0%}"></i>{spread}</div>'
    shown = "".join(f'<img src="{_candidate_thumb(session, number)}">' for number in entry.numbers[:BOOK_PICTURES])
    words = html.escape(entry.prompt) if entry.prompt else "<i>no words</i>"
    negative = f'<div class="negative">not: {html.escape(entry.negative_prompt)}</div>' if entry.negative_prompt else ""
    use = f'<button data-key="{_words(entry)}">use</button>' if entry.prompt else ""
    cells = (
        f"{words} <span class=negative>({html.escape(entry.method)})</span>{negative}",
        f"{rate}{bar}",
        f"{entry.accepted} of {judged}",
        str(entry.shown),
    )
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr>{body}<td class=pictures>{shown}</td><td>{use}</td></tr>"


def _tile(key: str, source: str, caption: str, chosen: bool, decision: str = "", doubtful: bool = False) -> str:
    caption, chosen_class = html.escape(caption, quote=True), "chosen" if chosen else ""
    picture = f'<img src="{source}">' if source else "<div>cannot be read</div>"
    return (
        f'<figure data-key="{html.escape(key, quote=True)}" class="{chosen_class}" title="{caption}" '
        f'data-decision="{decision}" data-doubtful="{str(doubtful).lower()}">'
        f"{picture}<figcaption><bdi>{caption}</bdi></figcaption></figure>"
    )


def _wall(tiles: Sequence[str], nothing: str) -> str:
    return "".join(tiles) or f"<p>{nothing}</p>"


def _normal_thumb(normals: SampleSet, sample: Sample) -> str:
    try:
        return _thumb_of(normals.root / sample.image)
    except DatasetError:  # the tile says so; the other pictures are as good as before
        return ""


@lru_cache(maxsize=4096)
def _thumb_of(path: Path) -> str:
    return pictures.thumb(read_image(path))


def _candidate_thumb(session: Session, number: int) -> str:
    try:
        return _thumb_of_candidate(session, number)
    except DatasetError:
        return ""


@lru_cache(maxsize=2048)
def _thumb_of_candidate(session: Session, number: int) -> str:
    image: Image = session.image(number)
    mask = session.candidate_mask(number)
    return pictures.thumb(image, None if mask is None else pictures.box(mask))
