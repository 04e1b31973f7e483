"""What the page on Python lists as public is what `import emscope` gives."""

import re
from pathlib import Path

import emscope

PAGE = Path(__file__).parent.parent.parent / "docs" / "python.md"


def test_the_page_lists_every_public_name_once():
    section = PAGE.read_text(encoding="utf-8").split("## What is public")[1]
    listed = []
    for line in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE):
        listed.extend(re.findall(r"`(\w+)`", line))
    assert sorted(listed) == sorted(emscope.__all__)
