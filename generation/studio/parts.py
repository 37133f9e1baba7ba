"""What the page is given: the methods that a form may ask for, and the quality gate's advice.

Models load once and stay; the gate is calibrated when the first picture is judged. Leaves out:
the page (`page.py`) and the state on disk (`session.py`).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diagline.config import Config
from diagline.config_generate import GenerateConfig
from diagline.errors import DiaglineError
from diagline.samples import SampleSet
from generation import painters, quality
from generation.diffusion.model_folder import find
from generation.painting import Job, Painted, Painter
from generation.quality import Calibration
from generation.quality.features import Features
from generation.studio.page import Parts
from generation.studio.session import Form, Session


def assemble(config: Config, normals: SampleSet, folder: Path, tuned: Path, features: Features) -> Parts:
    """The page's parts for a line.

    Args:
        normals: good pictures to paint on.
        folder: of the session.
        tuned: of `diagline tune`.
        features: what the quality gate measures by.

    Raises:
        OutputError: the folder cannot be written to.
    """
    session = Session(folder, normals, config.seed)
    form, wanted = session.form, config.generate
    if not (folder / "session.json").is_file():
        prompt = wanted.prompts[0] if wanted.prompts else ""
        session.save_form(replace(form, method=wanted.method, prompt=prompt, negative_prompt=wanted.negative_prompt))
    models = Models(wanted, tuned)
    return Parts(
        config.name, normals, session, models.painter, models.missing, Gate(wanted, normals, features, config.seed)
    )


class Models:
    """Methods by name and model, each loaded once.

    Args:
        settings: the config's; a form's model and settings lie over them.
        tuned: folder of `diagline tune`.
    """

    def __init__(self, settings: GenerateConfig, tuned: Path) -> None:
        self._settings, self._tuned = settings, tuned
        self._loaded: dict[tuple[str, str], Painter] = {}

    def painter(self, form: Form) -> Painter:
        """The method a form asks for.

        Raises:
            DiaglineError: its model is missing or does not read a setting.
        """
        settings = self._asked(form)
        sections: dict[str, Any] = {"diag": settings.diag, "in_and_out": settings.in_and_out}
        section = sections.get(form.method)
        key = (form.method, "" if section is None else section.model)
        if key not in self._loaded:
            self._loaded[key] = painters.build(settings, self._tuned)
        painter: Any = self._loaded[key]
        made: Painter = painter if section is None else painter.adjusted(section)
        return made

    def missing(self, method: str, model: str) -> str:
        """One line on why a method cannot paint with this model; "" when it can."""
        if method == "memseg":
            return ""
        if find_spec("diffusers") is None:
            return "diffusers is not installed; install it with: pip install 'diagline[workstation]'"
        section = self._settings.diag if method == "diag" else self._settings.in_and_out
        try:
            find(model or section.model, f"generate.{method}.model")
        except DiaglineError as error:
            return " ".join(str(error).split())
        return ""

    def _asked(self, form: Form) -> GenerateConfig:
        changes: dict[str, Any] = {}
        if form.model:
            changes["model"] = form.model
        if form.settings.get("steps"):
            changes["steps"] = int(form.settings["steps"])
        if form.settings.get("guidance"):
            changes["guidance"] = float(form.settings["guidance"])
        if form.method == "in_and_out":
            return replace(self._settings, method=form.method, in_and_out=replace(self._settings.in_and_out, **changes))
        if form.settings.get("strength"):
            changes["strength"] = float(form.settings["strength"])
        return replace(self._settings, method=form.method, diag=replace(self._settings.diag, **changes))


class Gate:
    """The quality gate's advice; calibrated at the first call."""

    def __init__(self, settings: GenerateConfig, normals: SampleSet, features: Features, seed: int) -> None:
        self._settings, self._normals, self._features, self._seed = settings.quality, normals, features, seed
        self._calibration: Calibration | None = None
        self._lock = threading.Lock()

    def __call__(self, job: Job, painted: Painted, painter: Painter) -> tuple[dict[str, Any], str | None]:
        """A picture's scores and the reason for which the gate would reject it."""
        with self._lock:
            if self._calibration is None:
                few = self._normals.samples[: self._settings.calibration_images]
                images = [self._normals.read_image(sample) for sample in few]
                self._calibration = quality.calibrate(images, self._features, self._settings, self._seed)
        scores = quality.score(job, painted, self._calibration, self._features, painter.keeps_outside)
        return scores.record(), quality.judge(scores, self._calibration, self._settings, painter.keeps_outside)
