"""The page a run ends with: pictures first, then curves, then figures.

One HTML file that needs nothing beside it: pictures and plots are inside. It is given plain
pictures, curves and tables, so that it knows no stage. Leaves out: measuring anything.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline import files
from diagline.errors import require

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #6b7280; --line: #d9dde3; --accent: #0b6bcb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #14171a; --faint: #9aa3ad; --line: #333a41; --accent: #6cb2ff; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1080px; padding: 24px; }
h1 { margin: 0 0 4px; font-size: 28px; } h2 { margin: 40px 0 8px; font-size: 20px; }
p.lead { color: var(--faint); margin-top: 0; }
small { display: block; color: var(--faint); font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 8px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
th { color: var(--faint); font-weight: 600; }
.sheet { display: flex; flex-wrap: wrap; gap: 8px; } figure { margin: 0; }
.sheet img { max-width: 100%; object-fit: contain; border-radius: 4px; display: block; }
figure { min-width: 88px; } figcaption { font-size: 12px; color: var(--faint); width: 0; min-width: 100%;
  overflow-wrap: anywhere; }
img.plot { max-width: 100%; background: #fff; border-radius: 4px; }
.note { border-left: 3px solid var(--accent); padding: 4px 12px; color: var(--faint); }
"""


class Page:
    """An HTML page put together from top to bottom."""

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1><p class=lead>{html.escape(lead)}</p>"]

    def heading(self, text: str, note: str = "") -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>" + (f"<p class=note>{html.escape(note)}</p>" if note else ""))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; the first column is text, the others figures; a cell's further lines are set small."""
        body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        names = "".join(f"<th>{_cell(name)}</th>" for name in head)
        self._parts.append(f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>")

    def note(self, text: str) -> None:
        """A line of small print."""
        self._parts.append(f"<p class=note>{html.escape(text)}</p>")

    def pictures(self, captioned: Iterable[tuple[NDArray[np.uint8], str]], height_px: int = 132) -> None:
        """A row of pictures, `(h, w, 3)` uint8 BGR, each with its caption, all shown `height_px` high."""
        size = f' style="height:{height_px}px"'
        figures = "".join(
            f'<figure><img{size} alt="{text}" src="{_jpeg(image)}"><figcaption>{text}</figcaption></figure>'
            for image, text in ((image, html.escape(caption)) for image, caption in captioned)
        )
        self._parts.append(f"<div class=sheet>{figures or '<p>none</p>'}</div>")

    def plot(self, figure: Any, caption: str) -> None:
        """A matplotlib figure, drawn as SVG."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        self._parts.append(f'<img class=plot alt="{html.escape(caption)}" src="data:image/svg+xml;base64,{data}">')

    def write(self, path: Path) -> None:
        """Write the page in one step."""
        body = "\n".join(self._parts)
        files.write_text(
            path,
            f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self._title)}</title><style>{STYLE}</style><body>\n{body}\n</body></html>\n",
        )


def _cell(text: str) -> str:
    first, *others = html.escape(text).split("\n")
    return first + "".join(f"<small>{line}</small>" for line in others)


def curves_plot(curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Any:
    """Precision over recall, one line a network."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    styles = ("-", "--", "-.", ":")  # forms of one network lie on each other
    for index, (name, (precision, recall)) in enumerate(curves.items()):
        axes.step(recall, precision, styles[index % len(styles)], where="post", label=name, linewidth=1.6)
    axes.set(xlabel="recall (share of defects rejected)", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))
    axes.legend(frameon=False)
    return figure


def seeds_plot(values: dict[str, Sequence[float]], what: str) -> Any:
    """One figure of several seeds: a dot a seed, a bar at the mean, a row a network."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.8 + 0.42 * len(values)))
    axes = figure.subplots()
    axes.grid(alpha=0.25, axis="x")
    for row, found in enumerate(values.values()):
        axes.plot(found, [row] * len(found), "o", alpha=0.6, color="#0b6bcb")
        axes.plot([np.mean(found)] * 2, [row - 0.3, row + 0.3], color="#1b1f24", linewidth=1.6)
    axes.set(xlabel=what, ylim=(len(values) - 0.5, -0.5))
    axes.set_yticks(range(len(values)), list(values))
    return figure


def history_plot(histories: dict[str, list[dict[str, Any]]]) -> Any:
    """Training loss (left) and validation AP (right) over epochs, one line a network."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2))
    loss, ap = figure.subplots(1, 2)
    for name, epochs in histories.items():
        loss.plot([entry["epoch"] for entry in epochs], [entry["loss"] for entry in epochs], label=name)
        measured = [entry for entry in epochs if entry.get("val_ap") is not None]
        ap.plot([entry["epoch"] for entry in measured], [entry["val_ap"] for entry in measured], label=name)
    loss.set(xlabel="epoch", ylabel="training loss")
    ap.set(xlabel="epoch", ylabel="validation AP", ylim=(0, 1.03))
    loss.legend(frameon=False)
    return figure


def _jpeg(image_bgr: NDArray[np.uint8]) -> str:
    height = image_bgr.shape[0]
    if height > 320:
        width = max(1, round(image_bgr.shape[1] * 320 / height))
        image_bgr = cv2.resize(image_bgr, (width, 320), interpolation=cv2.INTER_AREA).astype(np.uint8)
    _, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
