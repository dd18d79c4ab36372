"""scripts/figures: how the product's source reads, in numbers."""

from __future__ import annotations

import argparse
import sys

from tests.figures.page_path import GENERAL_DIRECTORIES, general, packages_crossed, page_path
from tests.figures.source import LONG_FILE, LONG_FUNCTION, MANY_ATTRIBUTES, figures


def main() -> int:
    """Print the figures; with --list, also where."""
    parser = argparse.ArgumentParser(prog="scripts/figures", description=__doc__)
    parser.add_argument("--list", action="store_true", help="say where, too")
    arguments = parser.parse_args()
    found, path = figures(), page_path()
    used = general(path)
    own = [file for file in path if file not in used]
    print(f"{found.files} files, {found.lines} lines, {found.docstrings} docstrings")
    for what, places in (
        (f"files of more than {LONG_FILE} lines", found.long_files),
        (f"functions of more than {LONG_FUNCTION} lines", found.long_functions),
        ("docstrings that open with a pronoun or a fragment", found.fragments),
        (f"classes with more than {MANY_ATTRIBUTES} attributes that change", found.bags),
        (f"files on a page's way, {packages_crossed(own)} changes of directory", own),
        (
            "more that its functions call,"
            f" imported from {GENERAL_DIRECTORIES} directories or more",
            used,
        ),
    ):
        print(f"{len(places):5} {what}")
        if arguments.list:
            print("".join(f"        {place}\n" for place in places), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
