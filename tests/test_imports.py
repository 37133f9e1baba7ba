"""Imports run one way: asserted from the source of every module, imports inside functions included.

Every stage may import `diagline`; what else stands in `MAY_IMPORT`. The edge box and the
firmware bridge reach no training library, not even through a module of `diagline`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "generation": set(),
    "training": {"generation"},
    "export": {"training", "edge_runtime", "firmware_bridge"},
    "edge_runtime": set(),
    "firmware_bridge": set(),
}
PACKAGES = {"diagline", *MAY_IMPORT}
FRONT_DOOR = {
    "diagline.cli", "diagline.cli_box", "diagline.cli_device", "diagline.cli_image", "diagline.cli_proof",
    "diagline.demo", "diagline.pages", "diagline.pages_seeds", "diagline.verbs", "diagline.verbs_proof",
    "diagline.verbs_seeds",
}  # fmt: skip
WORKSTATION = {"torch", "torchvision", "tensorflow", "keras", "diffusers", "transformers", "accelerate"}
OFF_THE_EDGE = WORKSTATION | {"sklearn", "matplotlib"}
BASE = {"numpy", "cv2", "rich", "typer"}  # what the edge box has besides one engine


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, module: str, is_package: bool = False, top_level: bool = False) -> set[str]:
    """Dotted names a module imports anywhere: by statement, importlib, __import__ or `require`.

    `from a import b` counts as `a` and `a.b`. With `top_level` only what runs when the module
    is imported: not in functions, not under `if TYPE_CHECKING`.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if top_level:
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) if top_level:
                return
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = module.split(".")[: None if is_package else -1]
                start = [*base[: len(base) - level + 1], *([name] if name else [])] if level else [str(name)]
                found.add(".".join(start))
                found.update(".".join([*start, alias.name]) for alias in names)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]
            ):
                if called in ("import_module", "__import__", "require"):
                    found.add(name)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def imports_of(module: str, top_level: bool = False) -> set[str]:
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", top_level)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def reach(module: str) -> dict[str, tuple[str, ...]]:
    """Every project module that a module imports, directly or not, with the way there."""
    ways = {module: (module,)}
    queue = [module]
    while queue:
        here = queue.pop()
        for name in imports_of(here):
            while name:  # importing a.b runs a, too
                if name in MODULES and name not in ways:
                    ways[name] = (*ways[here], name)
                    queue.append(name)
                name = name.rpartition(".")[0]
    return ways


def below(package: str) -> list[str]:
    return [name for name in MODULES if name.partition(".")[0] == package]


def test_every_room_was_found():
    assert all(below(package) for package in PACKAGES) and MODULES.keys() >= FRONT_DOOR


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", {"torch.nn"}),
        ("def f():\n    import torch", {"torch"}),
        ("class A:\n    def f(self):\n        from training import loop", {"training", "training.loop"}),
        ("async def f():\n    if x:\n        from torch import nn", {"torch", "torch.nn"}),
        ("from . import b", {"room", "room.b"}),
        ("from .b import c", {"room.b", "room.b.c"}),
        ("import importlib\nimportlib.import_module('torch')", {"importlib", "torch"}),
        ("x = __import__('torch')", {"torch"}),
        ("errors.require('torch', 'workstation')", {"torch"}),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", {"torch"}),
        ("f = lambda: __import__('torch')", {"torch"}),
        ("'import torch'", set()),
    ],
)
def test_the_reader_of_imports_sees_them_all(source, expected):
    assert imports(source, "room.a") == expected


def test_the_reader_tells_imports_that_run_at_once_from_those_on_demand():
    source = (
        "import numpy\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import cv2\nclass A:\n    import json\n"
        "try:\n    import rich\nexcept ImportError:\n    pass\n"
    )
    assert imports(source, "room.a", top_level=True) == {"numpy", "json", "rich"}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_stage_imports_only_the_stages_it_may(package):
    forbidden = PACKAGES - {"diagline", package} - MAY_IMPORT[package]
    found = {module: tops(imports_of(module)) & forbidden for module in below(package)}
    assert not {module: names for module, names in found.items() if names}


def test_only_the_front_door_imports_stages_and_only_on_demand():
    found = {name: tops(imports_of(name, top_level=name in FRONT_DOOR)) & set(MAY_IMPORT) for name in below("diagline")}
    assert not {module: stages for module, stages in found.items() if stages}


@pytest.mark.parametrize(("package", "forbidden"), [("edge_runtime", OFF_THE_EDGE), ("firmware_bridge", WORKSTATION)])
def test_what_runs_beside_the_line_reaches_no_training_library(package, forbidden):
    for start in below(package):
        for module, way in reach(start).items():
            assert not tops(imports_of(module)) & forbidden, " -> ".join(way)


def test_the_edge_box_loads_nothing_but_numpy_opencv_and_the_base_when_imported():
    for start in below("edge_runtime"):
        for module, way in reach(start).items():
            outside = tops(imports_of(module, top_level=True)) - PACKAGES - set(sys.stdlib_module_names)
            assert outside <= BASE, f"{' -> '.join(way)} imports {sorted(outside - BASE)}"


BLOCKER = """
import importlib, sys
allowed, blocked, names = (set(part.split(",")) for part in sys.argv[1:])
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
for name in sorted(names):
    importlib.import_module(name)
"""


def test_the_edge_box_and_the_front_door_start_where_only_the_base_is_installed():
    """Imports each module with every other dependency hidden."""
    blocked = (import_names() | OFF_THE_EDGE) - BASE
    assert {"onnxruntime", "ai_edge_litert"} <= blocked
    names = [*below("edge_runtime"), *below("diagline"), "firmware_bridge"]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, ",".join(BASE), ",".join(blocked), ",".join(names)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def declared() -> set[str]:
    """Distributions that pyproject.toml names, normalised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    names = {normal(match.group()) for line in lines if (match := re.match(r"[\w.-]+", line))}
    return names - {normal(project["name"])}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def import_names() -> set[str]:
    """Names the dependencies are imported by, and their own names."""
    wanted = declared()
    installed = metadata.packages_distributions()
    return wanted | {name for name, owners in installed.items() if wanted & {normal(owner) for owner in owners}}


def test_no_module_is_named_after_a_dependency():
    taken = {normal(name) for name in import_names() | OFF_THE_EDGE | BASE}
    assert {"onnx", "onnxruntime", "typer"} <= taken
    clashes = {module for module in MODULES for part in module.split(".") if normal(part) in taken}
    assert not clashes
