"""The rule of floors: a package imports only from those below it, and no modules import each other in a circle."""

import ast
from pathlib import Path

import networkx

import emscope

ROOT = Path(emscope.__file__).parent
FLOORS = (
    "executors",
    "statistics",
    "organisms",
    "behaviour",
    "residual",
    "interventions",
    "report",
    "pipeline",
    "experiments",
    "commands",
)
TOP = ("commands", "for_inspect", "face")
"""Doors: these may import everything below, but not one another."""


def modules():
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path, known):
    """Return the modules of ours that a module imports, also those that it imports when it is used.

    Imports for the type checker alone do not count.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emscope":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def edges():
    known = modules()
    del known["emscope"]  # the door: it hands out what is inside, and says the version
    return {(name, other) for name, path in known.items() for other in imports_of(path, known) if other != name}


def package(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[1]).is_dir() else ""


def is_upward(importing, imported):
    ours, theirs = package(importing), package(imported)
    if ours == theirs or not theirs or importing in ("emscope", "emscope.__main__"):
        return False
    if not ours:
        return True  # a module beside the packages is below them all
    if ours in TOP:
        return theirs in TOP
    return theirs in TOP or FLOORS.index(theirs) > FLOORS.index(ours)


def test_every_package_has_its_floor():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= {*FLOORS, *TOP, "assets"}


def test_no_package_imports_from_a_floor_above_it():
    assert [edge for edge in sorted(edges()) if is_upward(*edge)] == []


def test_no_modules_import_each_other_in_a_circle():
    graph = networkx.DiGraph(sorted(edges()))
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []
