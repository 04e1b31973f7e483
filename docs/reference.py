"""Writes the reference of commands and of results from the dataclasses of the source, without importing them.

    python docs/reference.py results > results.md
    python docs/reference.py commands > commands.md

A command is a dataclass whose fields are its flags. An experiment's result is a dataclass too, kept as
`experiments/<name>.json`: its fields are the keys of the object. What a field means stands in `Attributes:` of the
class.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent / "src" / "emscope"

RESULTS = """# Results and their keys

A run keeps the result of each experiment in `experiments/<name>.json`. From Python,
`em.open_run("runs/quickstart").sweep()` returns the same as dataclasses. This page is made from these classes: a field
is a key of the JSON object.

A figure that cannot be computed is `null`, never 0. *May be left out* means that the key is missing where it does not
apply. Shares and rates are between 0 and 1, scores between 0 and 100.
"""

MAIN = {
    "summary.json": ("Summary", ""),
    "detection.json": ("DirectionDetection", "By direction: "),
    "ablation.json": ("AblationOutcome", ""),
    "directions/stability.json": ("Stability", "By direction: "),
}
"""The files of the main job: their classes, and how their names stand before them."""

COMMANDS = """# Commands

`emscope --help` lists the commands and `emscope COMMAND --help` the flags of one. This page is made from the same
source: *value* is what a flag is where it is not given. Every command also takes `--json` (print the result as one JSON
object: command, result, files) and `--debug` (show tracebacks). Exit codes: 0 done; 1 something was found; 2 your input
or the environment is wrong, said in one sentence; 3 a fault of emscope.
"""


@dataclass(frozen=True)
class Field:
    """One field of a dataclass: a key of a JSON object, or a flag.

    Attributes:
        name: its name.
        kind: its annotation, as it is written.
        about: what the class's docstring says of it, '' where it says nothing.
        default: its default, as it is written; None where it has none.
        module: the file it stands in, which knows the names in kind and default.
    """

    name: str
    kind: ast.expr
    about: str
    default: ast.expr | None
    module: Path

    @property
    def key(self) -> str:
        """What JSON calls it: its name, or the other one that `called` gives it."""
        for node in ast.walk(self.default) if self.default else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "called":
                return str(_value(node.args[0], self.module))
        return self.name

    @property
    def left_out(self) -> bool:
        """Whether a key is left out where the field is None."""
        return self.default is not None and "ABSENT" in ast.unparse(self.default)


@dataclass(frozen=True)
class DataClass:
    """A dataclass as its source has it.

    Attributes:
        name: its name.
        about: the docstring before its sections.
        fields: its fields, in order.
        module: the file it stands in.
    """

    name: str
    about: str
    fields: tuple[Field, ...]
    module: Path


def main(arguments: Sequence[str]) -> None:
    """Print a page, and say on the error output which fields lack a description."""
    pages = {"results": results_page, "commands": commands_page}
    if len(arguments) != 1 or arguments[0] not in pages:
        sys.exit("usage: python docs/reference.py results|commands")
    sys.stdout.write(pages[arguments[0]]())
    for problem in undescribed():
        print(problem, file=sys.stderr)


def commands_page() -> str:
    """Return the page of commands and their flags as Markdown."""
    parts = [COMMANDS]
    kinds = commands()
    for group, entries in catalogue().items():
        parts.append(f"## {group.capitalize()}\n")
        for name, examples in entries.items():
            for title, kind in kinds.items():
                if title.split()[0] == name:
                    parts.append(_command_section(title, kind, examples))
    return "\n".join(parts)


def _command_section(title: str, kind: DataClass, examples: Sequence[str]) -> str:
    """Return the part of the page on one command, or on one of its sub-commands."""
    lines = [f"### {title}\n", f"{_typed(kind.about)}\n"]
    lines.extend(f"    {line}" for line in examples if line.startswith(f"emscope {title}"))
    flags = _flags(kind)
    if kind.module.parent.parent.name == "experiments":
        flags.insert(0, "| `RUN` | `runs/quickstart` | the folder of a finished run. |")
        executor = _lookup(SOURCE / "commands" / "experiment.py", "ExecutorSettings")
        flags.extend(_flags(executor) if executor else [])
    if flags:
        lines.extend(["", "| flag | value | meaning |", "|---|---|---|", *flags])
    return "\n".join(lines) + "\n"


def catalogue() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the examples of every command, by group and name, in the order of `emscope --help`."""
    file = SOURCE / "commands" / "catalogue.py"
    tree = _assigned(file)
    own = ast.literal_eval(tree["EXPERIMENT_EXAMPLES"])
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    for group, entries in zip(_keys(tree["GROUPS"]), _values(tree["GROUPS"]), strict=True):
        title = ast.literal_eval(group)
        if isinstance(entries, ast.Dict):
            calls = zip(_keys(entries), _values(entries), strict=True)
            groups[title] = {ast.literal_eval(key): _examples(call) for key, call in calls}
        else:  # the experiments, made from their list
            groups[title] = {name: own.get(name, (f"emscope {name} runs/quickstart",)) for name in experiment_names()}
    return groups


def _examples(entry: ast.expr) -> tuple[str, ...]:
    """Return the command lines of an `Entry(summary, examples)`."""
    assert isinstance(entry, ast.Call)
    return tuple(ast.literal_eval(entry.args[1]))


def _assigned(file: Path) -> dict[str, ast.expr]:
    """Return what a module assigns to names, by name."""
    values = {}
    for node in _tree(file).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            values[ast.unparse(target)] = node.value
    return values


def _keys(mapping: ast.expr) -> list[ast.expr]:
    return [key for key in mapping.keys if key] if isinstance(mapping, ast.Dict) else []


def _values(mapping: ast.expr) -> list[ast.expr]:
    return mapping.values if isinstance(mapping, ast.Dict) else []


def commands() -> dict[str, DataClass]:
    """Return the dataclass of every command by its name, experiments' settings among them."""
    kinds = {}
    for file in sorted((SOURCE / "commands").glob("*.py")):
        name = file.stem.replace("_", "-")
        if "COMMAND" in _assigned(file):
            named = _inner(_assigned(file)["COMMAND"], file)
            for kind in named:
                kinds[name if len(named) == 1 else f"{name} {kind.name.lower()}"] = kind
    for name in experiment_names():
        settings = _named_in(SOURCE / "experiments" / name / "__init__.py", "settings")
        if settings and not any(title.split()[0] == name for title in kinds):
            kinds[name] = settings
    return kinds


def _flags(kind: DataClass) -> list[str]:
    """Return a line of the table for every flag; those of nested settings stand in their place."""
    lines = []
    for field in kind.fields:
        inner = _inner(field.kind, field.module)
        if inner:
            lines.extend(_flags(inner[0]))
        else:
            is_positional = "Positional" in ast.unparse(field.kind)
            flag = field.name.upper() if is_positional else f"--{field.name.replace('_', '-')}"
            meaning = field.about.replace("|", "\\|")
            lines.append(f"| `{flag}` | {_default(field)} | {meaning} |")
    return lines


def _default(field: Field) -> str:
    """Return what a flag is where it is not given, '' where it then stays open."""
    if field.default is None:
        return "*needed*"
    value = _value(field.default, field.module)
    words = {None: "", "": "", True: "on", False: "off"}
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    if isinstance(value, (str, bool)) or value is None:
        return words.get(value, f"`{value}`")
    return f"`{value}`"


def _value(default: ast.expr, file: Path) -> Any:
    """Return a default's value: of a constant, of a name of ours, or its source where it is computed."""
    if isinstance(default, ast.Call) and ast.unparse(default.func) in ("Path", "field", "tuple"):
        inside = [*default.args, *(keyword.value for keyword in default.keywords if "default" in str(keyword.arg))]
        return _value(inside[0], file) if inside else ""
    if isinstance(default, ast.Attribute) and isinstance(default.value, ast.Name):
        kind = _lookup(file, default.value.id)
        for field in kind.fields if kind else ():
            if field.name == default.attr and field.default is not None:
                return _value(field.default, field.module)
    if isinstance(default, ast.Name):
        return _constant(file, default.id)
    try:
        return ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)


def _constant(file: Path, name: str) -> Any:
    """Return the value of a constant that a module knows by a name, or the name where its value is computed.

    Of a dictionary the keys are returned: they are what a flag takes.
    """
    if not file.is_file():
        return name
    value = _assigned(file).get(name)
    if value is not None:
        return [_value(key, file) for key in _keys(value)] if _keys(value) else _value(value, file)
    for module, original in _imports(_tree(file)).get(name, []):
        return _constant(_file_of(module), original)
    return name


def results_page() -> str:
    """Return the page of results and their keys as Markdown."""
    parts = [RESULTS]
    described: set[str] = set()
    for name, result in results().items():
        parts.append(f"## {name}\n")
        if name in MAIN and MAIN[name][1]:
            parts.append(MAIN[name][1] + "an object each.\n")
        for number, kind in enumerate(_with_parts(result)):
            if _anchor(kind) not in described:
                described.add(_anchor(kind))
                parts.append(_section(kind, is_whole=number == 0))
    return "\n".join(parts)


def results() -> dict[str, DataClass]:
    """Return the class of every JSON file of results, the main job's before the experiments'."""
    file = SOURCE / "experiments" / "main" / "result.py"
    classes = {name: _lookup(file, kind) for name, (kind, _) in MAIN.items()}
    classes.update({f"experiments/{name}.json": kind for name, kind in experiments().items()})
    return {name: kind for name, kind in classes.items() if kind}


def _anchor(kind: DataClass) -> str:
    """Return where a class is described on the page: two experiments may each have a class of one name."""
    owner = kind.module.parent
    return f"{owner.name}-{kind.name.lower()}" if owner.parent.name == "experiments" else kind.name.lower()


def experiments() -> dict[str, DataClass]:
    """Return the result class of every experiment that has one, by the experiment's name."""
    results = {}
    for name in experiment_names():
        result = _named_in(SOURCE / "experiments" / name / "__init__.py", "result")
        if result:
            results[name] = result
    return results


def experiment_names() -> list[str]:
    """Return the names of all experiments, in the order of their list."""
    return [ast.literal_eval(key) for key in _keys(_assigned(SOURCE / "experiments" / "__init__.py")["EXPERIMENTS"])]


def undescribed() -> list[str]:
    """Return one sentence for every class of the pages with fields that its docstring does not describe."""
    problems = set()
    for outer in results().values():
        for kind in _with_parts(outer):
            problems.add(_missing(kind, kind.fields))
    for outer in commands().values():
        for kind in _with_parts(outer):
            flags = [field for field in kind.fields if not _inner(field.kind, field.module)]  # others are not shown
            problems.add(_missing(kind, flags))
    return sorted(problems - {""})


def _missing(kind: DataClass, fields: Sequence[Field]) -> str:
    """Return which of a class's fields lack a description, as a sentence; '' where none does."""
    names = ", ".join(field.name for field in fields if not field.about)
    return f"{_place(kind.module)}: {kind.name} does not describe {names}." if names else ""


def _named_in(file: Path, keyword: str) -> DataClass | None:
    """Return the dataclass that `Experiment(…, keyword=…)` names in a file, None where there is none."""
    if not file.is_file():
        return None
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.keyword) and node.arg == keyword and isinstance(node.value, ast.Name):
            return _lookup(file, node.value.id)
    return None


def _with_parts(result: DataClass) -> list[DataClass]:
    """Return a class and all result classes that its fields hold, each once, the outer before the inner."""
    listed: list[DataClass] = []
    waiting = [result]
    while waiting:
        kind = waiting.pop(0)
        if kind not in listed:
            listed.append(kind)
            for field in kind.fields:
                waiting.extend(_inner(field.kind, field.module))
    return listed


@cache
def _lookup(file: Path, name: str) -> DataClass | None:
    """Return the dataclass that a module knows by a name: its own, or one of ours that it imports.

    A name that goes round in a circle of imports is none: Python could not resolve it either.
    """
    if not file.is_file():
        return None
    for node in _tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name and _is_dataclass(node):
            return _data_class(node, file)
    for module, original in _imports(_tree(file)).get(name, []):
        if _file_of(module) != file:
            return _lookup(_file_of(module), original)
    return None


def _file_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(tree: ast.Module) -> dict[str, list[tuple[str, str]]]:
    """Return by the name it has here the module and the name there, of what a module imports from emscope."""
    names: dict[str, list[tuple[str, str]]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emscope":
            for alias in node.names:
                names.setdefault(alias.asname or alias.name, []).append((node.module or "", alias.name))
    return names


def _inner(annotation: ast.expr, file: Path) -> list[DataClass]:
    """Return the dataclasses that an annotation of a module names, in order."""
    kinds: list[DataClass] = []
    for word in (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)):
        kind, alias = _lookup(file, word), _alias(file, word)
        if kind:
            kinds.append(kind)
        elif alias:
            kinds.extend(_inner(alias, file))
    return kinds


def _alias(file: Path, name: str) -> ast.expr | None:
    """Return the annotation that a module gives a name of its own, None where it has none of this name."""
    value = _assigned(file).get(name) if file.is_file() else None
    return value if isinstance(value, (ast.Subscript, ast.BinOp)) else None


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _is_dataclass(node: ast.ClassDef) -> bool:
    decorators = [item.func if isinstance(item, ast.Call) else item for item in node.decorator_list]
    return any(isinstance(item, ast.Name) and item.id == "dataclass" for item in decorators)


def _data_class(node: ast.ClassDef, file: Path) -> DataClass:
    """Return what a class's source says."""
    about, described = attributes_of(ast.get_docstring(node) or "")
    fields = [field for base in node.bases for kind in _inner(base, file) for field in kind.fields]
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
            if not ast.unparse(line.annotation).startswith("ClassVar"):
                fields.append(Field(name, line.annotation, described.get(name, ""), line.value, file))
    return DataClass(node.name, about, tuple(fields), file)


def attributes_of(docstring: str) -> tuple[str, dict[str, str]]:
    """Return a docstring's text before its sections, and what its `Attributes:` say of each name."""
    about, _, rest = docstring.partition("\nAttributes:\n")
    about = re.split(r"\n[A-Z][a-z]+:\n", about)[0]
    described: dict[str, str] = {}
    names: list[str] = []
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        start = re.match(r" {4}(\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)", line)
        if start:
            names = start[1].split(", ")
            described.update(dict.fromkeys(names, start[2].strip()))
        elif line.strip():
            for name in names:
                described[name] += f" {line.strip()}"
    return about.strip(), described


def _section(kind: DataClass, *, is_whole: bool) -> str:
    """Return the part of the page on one class."""
    heading = "" if is_whole else f"### {kind.name} {{#{_anchor(kind)}}}\n\n"
    lines = [f"{heading}{_typed(kind.about)}\n", "| key | holds | meaning |", "|---|---|---|"]
    for field in kind.fields:
        meaning = field.about.replace("|", "\\|")
        meaning += " *May be left out.*" if field.left_out else ""
        lines.append(f"| `{field.key}` | {_in_words(field.kind, field.module)} | {meaning} |")
    return "\n".join(lines) + "\n"


PLAIN = {"float": "number", "int": "whole number", "str": "text", "bool": "true or false", "None": "null", "Any": "any"}
LISTS = ("Sequence", "list", "tuple")
MAPS = ("Mapping", "dict")


def _in_words(kind: ast.expr, module: Path) -> str:
    """Return an annotation as a reader of JSON would say it."""
    if isinstance(kind, ast.BinOp):
        return f"{_in_words(kind.left, module)} or {_in_words(kind.right, module)}"
    if isinstance(kind, ast.Subscript) and isinstance(kind.value, ast.Name):
        return _container(kind.value.id, kind.slice, module)
    known = _lookup(module, kind.id) if isinstance(kind, ast.Name) else None
    if known:
        return f"[{known.name}](#{_anchor(known)})"
    alias = _alias(module, kind.id) if isinstance(kind, ast.Name) else None
    if alias:
        return _in_words(alias, module)
    text = ast.unparse(kind).strip("'\"")
    return PLAIN.get(text, text)


def _container(name: str, inside: ast.expr, module: Path) -> str:
    """Return a list, an object with free names, or a choice of words."""
    kinds: Sequence[ast.expr] = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    inner = [_in_words(kind, module) for kind in kinds if ast.unparse(kind) != "..."]
    if name == "Literal":
        return " or ".join(f"`{text}`" for text in inner)
    if name in LISTS:
        return "list of " + (inner[0] if len(set(inner)) == 1 else " and ".join(inner))
    if name in MAPS:
        return f"by name: {inner[-1]}"
    return ast.unparse(inside) if not inner else f"{name} of {', '.join(inner)}"


def _typed(text: str) -> str:
    """Return a docstring's text with its line ends kept where a blank line or a list wants them."""
    return text.replace("<", "&lt;")


def _place(file: Path) -> str:
    return str(file.relative_to(SOURCE.parent.parent))


if __name__ == "__main__":
    main(sys.argv[1:])
