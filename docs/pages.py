"""Adds to the site what is not in docs/: the pages made from the code, and those that lie beside the README.

A hook of MkDocs (mkdocs.yml names it). Links are written so that they also work where the repository is read as it is.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "emscope"
BESIDE_README = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
}
FROM_SOURCE = {
    r"\]\(\.\./src/emscope/experiments/(\w+)/result\.py\)": r"](results.md#experiments\1json)",
    r"\]\(\.\./src/emscope/experiments/result\.py\)": "](results.md)",
    r"\]\(\.\./src/emscope/commands/catalogue\.py\)": "](commands.md)",
    r"\]\(\.\./src/emscope/(\w+)/__init__\.py\)": r"](api-\1.md)",
    r"\]\(\.\./src/emscope/__init__\.py\)": "](api.md)",
}
"""Links to source that the site has a page of."""
PACKAGES = ("statistics", "organisms", "behaviour", "residual", "interventions", "pipeline")
log = logging.getLogger("mkdocs.hooks.pages")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made while the site is built."""
    for name, called in BESIDE_README.items():
        files.append(File.generated(config, called, content=(ROOT / name).read_text(encoding="utf-8")))
    reference = _reference()
    for problem in reference.undescribed():
        log.warning(problem)
    files.append(File.generated(config, "results.md", content=reference.results_page()))
    files.append(File.generated(config, "commands.md", content=reference.commands_page()))
    files.append(File.generated(config, "api.md", content=_face()))
    for package in PACKAGES:
        files.append(File.generated(config, f"api-{package}.md", content=_api(package)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files of the repository into links to pages of the site."""
    for name, called in BESIDE_README.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({called}", markdown)
    for pattern, called in FROM_SOURCE.items():
        markdown = re.sub(pattern, called, markdown)
    if page.file.src_uri in BESIDE_README.values():
        markdown = markdown.replace("](docs/", "](").replace("](README.md", "](index.md")
    return markdown.replace("](../README.md", "](index.md")


def _face() -> str:
    """Return the page of what `import emscope as em` gives, functions before the types they return."""
    names = _public_names()
    functions = [name for name in names if name[0].islower()]
    types = [name for name in names if name[0].isupper()]
    lines = [
        "# Python",
        "",
        "`import emscope as em` gives the names on this page. They keep their names and meanings between versions. The",
        "packages below them are documented too, and may change:",
        "",
        *(f"- [emscope.{package}](api-{package}.md): {_first_sentence(package)}" for package in PACKAGES),
        "",
        "## Functions",
        "",
        *(_public(name, names[name]) for name in functions),
        "## Types",
        "",
        *(_public(name, names[name]) for name in types),
    ]
    return "\n".join(lines)


def _public(name: str, home: str) -> str:
    """Return the directive that shows a public name under the name that users give it."""
    options = f"    options: {{heading: em.{name}, heading_level: 3, show_root_full_path: false}}"
    return f"::: emscope.{home}.{name}\n{options}\n"


def _public_names() -> dict[str, str]:
    """Return the public names of `emscope`, each with the module it lives in, those of one module together."""
    for node in ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            homes = ast.literal_eval(node.value)
            return {name: home for home, names in homes.items() for name in names}
    raise ValueError("emscope/__init__.py has no _HOMES, the table of its public names.")


def _api(package: str) -> str:
    """Return the page of a package: what every module of it says of its public names."""
    head = [f"# emscope.{package}", "", _first_sentence(package), ""]
    return "\n".join([*head, *(f"::: {path}\n" for path in _modules(SOURCE / package))])


def _modules(folder: Path) -> list[str]:
    """Return the dotted names of a folder's modules, in order."""
    files = sorted(file for file in folder.rglob("*.py") if not file.name.startswith("_"))
    return [".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in files]


def _first_sentence(package: str) -> str:
    """Return what a package's docstring says first."""
    text = (SOURCE / package / "__init__.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    return docstring.split("\n\n")[0].replace("\n", " ")


def _reference() -> Any:
    """Return the module beside this one that writes the reference."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module
