"""`import emscope` loads nothing, and every public name is there, documented, and where a type checker sees it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import emscope

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "plotly")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_nothing_heavy_and_is_quick():
    code = (
        "import sys, time; began = time.process_time(); import emscope; "
        f"print(time.process_time() - began, *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    tries = [python(code).split() for _ in range(4)]  # seconds of the processor: others may be busy
    assert all(len(words) == 1 for words in tries), tries
    assert min(float(seconds) for (seconds,) in tries) < 0.1


def test_questions_and_servers_need_no_torch():
    code = "import sys, emscope as em; em.Question; em.UserError; print('torch' in sys.modules)"
    assert python(code) == "False"


@pytest.mark.parametrize("name", emscope.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    value = getattr(emscope, name)
    assert (value.__doc__ or "").strip()
    assert name in dir(emscope)


def test_the_list_the_homes_and_the_imports_for_type_checkers_agree():
    imported = set()
    for node in ast.walk(ast.parse(Path(emscope.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emscope."):
            imported |= {(node.module, alias.name) for alias in node.names}
    homes = {(f"emscope.{module}", name) for module, names in emscope._HOMES.items() for name in names}
    assert imported == homes
    assert sorted(name for _, name in homes) == sorted(emscope.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = emscope.nonsense
