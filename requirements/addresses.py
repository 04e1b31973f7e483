"""Writes the project's addresses into pyproject.toml, for a release: addresses.py https://HOST/OWNER/NAME.

The source itself names none: a copy of the repository elsewhere would send its users to somebody else.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
MARK = "\n[project.scripts]\n"


def addresses(repository: str) -> str:
    """Return the table of a project's addresses."""
    pages = {
        "Homepage": repository,
        "Source": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Documentation": f"{repository}/tree/main/docs",
    }
    lines = [f'{name} = "{address}"' for name, address in pages.items()]
    return "\n".join(["", "[project.urls]", *lines, ""])


def main() -> None:
    """Write them."""
    if len(sys.argv) != 2 or not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", sys.argv[1]):
        sys.exit("addresses.py: name the repository, https://HOST/OWNER/NAME")
    text = PROJECT.read_text(encoding="utf-8")
    if "[project.urls]" in text:
        sys.exit("addresses.py: pyproject.toml has addresses already")
    PROJECT.write_text(text.replace(MARK, addresses(sys.argv[1]) + MARK, 1), encoding="utf-8")


if __name__ == "__main__":
    main()
