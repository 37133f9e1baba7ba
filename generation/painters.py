"""From a name and settings, or from a record, to a method that is ready to paint.

Libraries are imported with the method that needs them. Leaves out: the methods themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagline.config_generate import DiagConfig, GenerateConfig, InAndOutConfig
from diagline.errors import DatasetError, GenerationError, require
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Painter


def build(settings: GenerateConfig, tuned: Path) -> Painter:
    """The method of `settings`.

    Args:
        settings: method, and its own section.
        tuned: folder of `diagline tune`, for `in_and_out.lora = "tuned"`.

    Raises:
        GenerationError: the model is missing or cannot be read; never another one instead.
        MissingExtraError: the method's libraries are not installed.
    """
    if settings.method == "memseg":
        return MemSegPainter(MemSegSettings(foreground=settings.foreground))
    require("diffusers", "workstation")
    if settings.method == "diag":
        from generation.diag import DiagPainter

        return DiagPainter(settings.diag)
    from generation.in_and_out import InAndOutPainter

    lora = {"none": None, "tuned": tuned}.get(settings.in_and_out.lora, Path(settings.in_and_out.lora))
    return InAndOutPainter(settings.in_and_out, lora, MemSegSettings(foreground=settings.foreground))


def rebuild(facts: Mapping[str, Any]) -> Painter:
    """The method that a record's facts describe.

    Args:
        facts: what `Painter.facts` gave.

    Raises:
        DatasetError: not the record of a method that is known here.
        GenerationError: as `build`, or the model is of another revision now.
    """
    method, settings = facts.get("method"), dict(facts.get("settings", {}))
    if method == "memseg":
        return MemSegPainter(MemSegSettings(**settings))
    require("diffusers", "workstation")
    if method == "diag":
        from generation.diag import DiagPainter

        return _of_revision(DiagPainter(DiagConfig(**settings)), facts)
    if method == "in_and_out":
        from generation.in_and_out import InAndOutPainter

        lora = None if facts.get("lora") is None else Path(facts["lora"]["folder"])
        return _of_revision(
            InAndOutPainter(InAndOutConfig(**settings), lora, MemSegSettings(**facts["out_settings"])), facts
        )
    raise DatasetError(
        f"method {method!r}; expected a record of memseg, in_and_out or diag; it cannot be painted again"
    )


def _of_revision(painter: Painter, facts: Mapping[str, Any]) -> Painter:
    now = painter.facts()
    for key in ("revision", "lora"):
        if now.get(key) != facts.get(key):
            raise GenerationError(
                f"{facts['model']}: {key} {now.get(key)} is here, the record names {facts.get(key)}; "
                f"expected the same model; fetch that one"
            )
    return painter
