"""Figures of the product's source: its sizes, its docstrings, classes with many attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("migrate", "checkpoint", "transport")
LONG_FILE, LONG_FUNCTION, MANY_ATTRIBUTES = 250, 45, 15
#: A docstring that opens with one of these has no noun of its own, or is no whole sentence.
OPENINGS = frozenset(
    """
    what whatever whoever who whom whose which where wherever when whenever how however why those
    these this that it its they their them ones of as to from until by for in on at with without
    beside likewise same also not nothing
    nobody none never such other others after before because if lest told
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of all files; each list says where something is."""

    files: int
    lines: int
    long_files: list[str]
    long_functions: list[str]
    docstrings: int
    fragments: list[str]
    bags: list[str]


def figures() -> Figures:
    """Read all files of the product, and return their figures."""
    paths = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    lines = 0
    long_files, long_functions, docstrings, fragments, bags = [], [], 0, [], []
    for path in paths:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        count = len(text.splitlines())
        lines += count
        if count > LONG_FILE:
            long_files.append(f"{name} {count}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONG_FUNCTION:
                    long_functions.append(f"{name}:{node.lineno} {node.name} {length}")
            if isinstance(node, ast.ClassDef) and _is_bag(node):
                bags.append(f"{name}:{node.lineno} {node.name} {len(_attributes(node))}")
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                docstring = ast.get_docstring(node)
                docstrings += docstring is not None
                if docstring and opens_as_fragment(docstring):
                    fragments.append(
                        f"{name}:{getattr(node, 'lineno', 1)} {docstring.splitlines()[0]}"
                    )
    return Figures(
        files=len(paths),
        lines=lines,
        long_files=long_files,
        long_functions=long_functions,
        docstrings=docstrings,
        fragments=fragments,
        bags=bags,
    )


def opens_as_fragment(docstring: str) -> bool:
    """Return whether a docstring opens with a word that begins no whole sentence (OPENINGS)."""
    first = docstring.split(maxsplit=1)[0].strip("`'\"(,.;:")
    return first.lower() in OPENINGS


def _is_bag(node: ast.ClassDef) -> bool:
    """Return whether a class has very many attributes that change.

    A frozen record or a message is no such class.
    """
    frozen = any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)
    message = any(
        ast.unparse(base).startswith(("Request", "Answer", "Streamed", "Message"))
        for base in node.bases
    )
    return not frozen and not message and len(_attributes(node)) > MANY_ATTRIBUTES


def _attributes(node: ast.ClassDef) -> set[str]:
    found = {
        each.target.id
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    return found | set(_assigned(node))


def _assigned(node: ast.ClassDef) -> Iterator[str]:
    """Yield the attributes of self to which the methods of a class assign."""
    for each in ast.walk(node):
        if (
            isinstance(each, ast.Attribute)
            and isinstance(each.ctx, ast.Store)
            and isinstance(each.value, ast.Name)
            and each.value.id == "self"
        ):
            yield each.attr
