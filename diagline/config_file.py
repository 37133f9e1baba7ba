"""A TOML table to frozen dataclasses: an unknown key is an error that names the nearest key.

Leaves out: which dataclasses (`config.py` for a line, `edge_runtime/box_config.py` for a box) and
what their values must be (`__post_init__` of each).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from diagline.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; expected a TOML config such as configs/demo.toml") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}); correct the file") from error


def override(text: str) -> dict[str, Any]:
    """`section.key=value` as a table, the value in TOML; a bare word is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}; expected section.key=value")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return typing.cast(dict[str, Any], parsed)


def merge(table: dict[str, Any], over: dict[str, Any]) -> None:
    """Lay `over` on `table`, table by table."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            merge(table[key], value)
        else:
            table[key] = value


def build(kind: type[Any], table: dict[str, Any], prefix: str = "") -> Any:
    """The dataclass `kind` from a table; `prefix` names it in messages.

    Raises:
        ConfigError: an unknown or missing key, a value of another type, or one out of range.
    """
    known = {item.name: item for item in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {prefix}{key}; {hint}")
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise ConfigError(f"missing key {prefix}{name}; expected it in the file; add it")
    return kind(**{key: _value(hints[key], value, prefix + key) for key, value in table.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} = {value!r}; expected a table [{key}]")
        return build(typing.cast(type[Any], hint), value, key + ".")
    if typing.get_origin(hint) is tuple:  # tuple[kind, ...]
        if not isinstance(value, list):
            raise ConfigError(f"{key} = {value!r}; expected a list")
        return tuple(_value(typing.get_args(hint)[0], item, key) for item in value)
    if hint is Path and isinstance(value, str) and value:
        return Path(os.path.expanduser(value))  # of a user that is not there it stays as it is
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{key} = {value!r}; expected {'a path' if hint is Path else hint.__name__}")
    return value
