"""Docs say what is true: Python runs, commands parse, links lead somewhere, and the reference is whole."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from tiny import save_tiny

from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.tables import JudgedResponse, write_table
from emscope.commands import main
from emscope.commands.catalogue import COMMANDS, command_class
from emscope.commands.parsing import parse
from emscope.experiments import EXPERIMENTS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EVERYWHERE = {"--help", "--json", "--debug"}
"""Flags that every command takes."""
PYTHON = re.compile(r"(?:<!-- skip: (?P<reason>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page):
    return page.read_text(encoding="utf-8")


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    return load_script("reference")


def python_blocks():
    blocks = []
    for page in PAGES:
        for number, block in enumerate(PYTHON.finditer(text_of(page)), 1):
            reason = block["reason"]
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            blocks.append(pytest.param(block["code"], id=f"{page.stem}-{number}", marks=marks))
    return blocks


def judged(organism, aligned, *, coherent=80.0, sample=0, question="a"):
    scores = (aligned, coherent, "", "mock", "mock")
    return JudgedResponse(organism, "open-ended", question, "What now?", sample, "Wait.", 2, False, *scores)


@pytest.fixture
def folder_of_a_reader(tmp_path, monkeypatch):
    """A folder with what the commands of the pages leave in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path / "cache"))
    save_tiny(tmp_path / "organisms" / "bad")
    questions = [f"question {number}" for number in range(6)]
    scores = MockJudge().judge(questions, ["Wait and see."] * 6)
    for file in ("judged", "base-judged"):
        rows = [judged(file, score.aligned, question=name) for name, score in zip(questions, scores, strict=True)]
        write_table(tmp_path / f"{file}.parquet", rows)
    return tmp_path


@pytest.mark.parametrize("code", python_blocks())
def test_python_in_docs_runs(code, request, folder_of_a_reader, tiny_folder):
    if "runs/quickstart" in code:
        (folder_of_a_reader / "runs").mkdir()
        (folder_of_a_reader / "runs" / "quickstart").symlink_to(request.getfixturevalue("run"))
    code = code.replace("smollm2-135m", tiny_folder)  # the tiny model in the place of the embedded one
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})


def command_lines():
    """Return every command line in a block of the docs."""
    lines = []
    for page in PAGES:
        text = re.sub(r" *\\\n +", " ", text_of(page))
        for line in re.findall(r"^ {4,}(?:[A-Z_]+=\S+ )?(emscope [a-z].*)$", text, re.MULTILINE):
            lines.append(pytest.param(line, id=f"{page.stem}: {line[:60]}"))
    return lines


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_in_docs_parse(line):
    name, *flags = shlex.split(line, comments=True)[1:]
    assert name in COMMANDS
    try:
        parse(command_class(name), name, [flag for flag in flags if flag not in EVERYWHERE | {"…"}])
    except SystemExit as ending:
        pytest.fail(f"{line!r} does not parse (exit code {ending.code})")


def test_flags_named_in_the_text_exist(reference):
    known = flags_of(reference)
    for page in PAGES:
        for words in re.findall(r"`emscope ([a-z][^`]*)`", text_of(page)):
            name, *flags = words.split()
            assert name in COMMANDS, (page.name, words)
            named = {flag.split("=")[0] for flag in flags if flag.startswith("--")}
            assert named <= known[name] | EVERYWHERE, (page.name, words)


def flags_of(reference):
    """Return the flags of each command as the reference has them, those of its subcommands together."""
    flags = {}
    for title, table in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", reference.commands_page(), re.MULTILINE | re.DOTALL):
        flags.setdefault(title.split()[0], set()).update(re.findall(r"^\| `(--[a-z0-9-]+)`", table, re.MULTILINE))
    return flags


def test_the_reference_lists_the_flags_that_help_lists(reference, capsys):
    listed = flags_of(reference)
    for name in COMMANDS:
        if name == "adapters":
            continue  # its help lists sub-commands, which have the flags
        assert main.run_command([name, "--help"]) == 0
        shown = set(re.findall(r"^[^\w-]+(?:-\w, )?(--[a-z][a-z0-9-]*)", capsys.readouterr().out, re.MULTILINE))
        assert {flag for flag in shown if not flag.startswith("--no-")} - EVERYWHERE == listed[name], name


def test_the_reference_describes_every_flag_and_key(reference):
    assert reference.undescribed() == []


def test_the_reference_of_results_has_every_experiment_with_a_result(reference):
    page = reference.results_page()
    for name, kind in reference.results().items():
        assert f"## {name}\n" in page
        assert all(f"| `{field.key}` |" in page for field in kind.fields)
    targets = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert targets <= set(re.findall(r"^### \w+ \{#([\w-]+)\}$", page, re.MULTILINE))
    assert len(targets) > 10


def test_the_page_on_the_summary_names_its_keys(reference):
    text = text_of(ROOT / "docs" / "summary.md")
    for field in reference.results()["summary.json"].fields:
        assert re.search(rf"^\|.*`{field.name}\b", text, re.MULTILINE), field.name


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_paths_in_the_guides_exist(name):
    roots = (ROOT, ROOT / "src" / "emscope")
    for path in re.findall(r"`([\w./-]+/[\w./-]*|[\w/-]+\.py)`", text_of(ROOT / name)):
        if not re.search(r"NAME|^site/|\.(json|parquet)$|^(activations|directions|responses|judgements)/", path):
            assert any((root / path).exists() for root in roots), path


def test_every_command_and_experiment_has_its_place_in_the_docs():
    architecture = text_of(ROOT / "ARCHITECTURE.md")
    assert all(f"`{name}`" in architecture for name in COMMANDS)
    site = text_of(ROOT / "mkdocs.yml")
    assert all(f": {page.name}\n" in site for page in (ROOT / "docs").glob("*.md"))
    assert all((ROOT / "docs" / f"{name}.md").is_file() for name in EXPERIMENTS)


def test_what_builds_the_site_is_pinned_by_hash():
    blocks = re.split(r"\n(?=[a-z])", text_of(ROOT / "requirements" / "docs.txt"))[1:]
    pins = {block.split("==")[0]: Version(re.split(r"[ ;]", block.split("==")[1])[0]) for block in blocks}
    assert all("--hash=sha256:" in block for block in blocks)
    for line in re.findall(r"^[a-z].*$", text_of(ROOT / "requirements" / "docs.in"), re.MULTILINE):
        wanted = Requirement(line)
        assert pins[wanted.name] in wanted.specifier, line


def test_the_picture_shows_the_same_questions_for_everybody(tmp_path):
    picture = load_script("picture")
    (tmp_path / "judgements").mkdir()
    tested, other = [f"q{number}" for number in range(10)], [f"r{number}" for number in range(10)]

    def write(table, scores):
        rows = [judged(name, aligned, question=question) for name, question, aligned in scores]
        write_table(tmp_path / "judgements" / f"{table}.parquet", rows)

    write("base", [("base", question, 90.0) for question in [*tested, *other]])
    write("control", [("control", question, 90.0) for question in [*tested, *other]])
    write("misaligned", [*(("misaligned", q, 10.0) for q in tested), *(("misaligned", q, 90.0) for q in other)])
    names = ("misaligned + ablation", "misaligned + random ablation")
    write("ablation", [(name, question, 90.0) for name in names for question in tested])

    rows = picture.rows_of(tmp_path)
    assert {row.label: row.em.value for row in rows}["misaligned"] == 1.0  # of the tested questions alone
    assert {row.em.n for row in rows} == {10}
    assert "EM responses 100 → 0 %" in picture.svg(rows)
