"""The errors diagline raises on purpose.

    DiaglineError
    ├── ConfigError         a TOML key or value that cannot be used
    ├── DatasetError        a folder, image, mask, label or split that cannot be used
    ├── GenerationError     a model that is missing or cannot paint what was asked (memory, prompt, mask)
    ├── TrainingError       a run that cannot start or cannot go on (no positives, NaN loss, wrong checkpoint)
    ├── CertificateError    real parts that do not show the escape or overkill that was asked
    ├── ExportError         a network that cannot be converted
    │   └── ParityError     one whose forms disagree
    ├── BundleError         a bundle that is missing, changed, truncated, of an unknown schema or not trusted; a bad key
    ├── CameraError         a camera, film, folder or address that does not open or stopped
    ├── OutputError         a place that cannot be written to
    ├── FlashError          a device that did not accept a model
    └── MissingExtraError   a library that an extra brings is not installed

Every message names the value, what was expected, and the next step. Inner code raises; only
`diagline/cli.py` prints them (one line); the exit code is 2, a ParityError's 3. A programming error is
not wrapped: it keeps its traceback.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class DiaglineError(Exception):
    """Root of every error a user can cause and mend."""

    exit_code = 2


class ConfigError(DiaglineError):
    """A TOML key or value that cannot be used."""


class DatasetError(DiaglineError):
    """A folder, image, mask, label or split that cannot be used."""


class GenerationError(DiaglineError):
    """A model that is missing, or that cannot paint what was asked."""


class TrainingError(DiaglineError):
    """A training run that cannot start or cannot go on."""


class CertificateError(DiaglineError):
    """Real parts that do not show the escape or overkill that was asked."""


class ExportError(DiaglineError):
    """A network that cannot be converted."""


class ParityError(ExportError):
    """A network whose forms disagree."""

    exit_code = 3


class BundleError(DiaglineError):
    """A bundle that is missing, changed, truncated, of an unknown schema or not trusted; a key that is none."""


class CameraError(DiaglineError):
    """A camera, film, folder or address that does not open or stopped."""


class OutputError(DiaglineError):
    """A place that cannot be written to."""


class FlashError(DiaglineError):
    """A device that did not accept a model."""


class MissingExtraError(DiaglineError):
    """A library that one of the extras brings is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        MissingExtraError: the module is not installed; the message carries the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; expected with this command; "
            f"install it with: pip install 'diagline[{extra}]'"
        ) from error
