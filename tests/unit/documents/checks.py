"""Checks of documents: what they name is there, and commands can be typed as they are written.

A check is a function of a document's text and path, which returns a list of what is wrong.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from migrate import logs
from migrate.cli import ctl, exit_codes, move
from migrate.errors import BadRequest
from migrate.signals import INTERRUPTING

ROOT = next(path for path in Path(__file__).parents if (path / "pyproject.toml").exists())
README, CHANGELOG = ROOT / "README.md", ROOT / "CHANGELOG.md"
DOCS = ROOT / "docs"
#: The documents that are checked. CHANGELOG.md is none of them, as it has names that are gone.
DOCUMENTS = [README, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
WIDTH = 100
#: A function that takes the text of a document and its path, and returns what is wrong.
Check = Callable[[str, Path], list[str]]


# --- code in a document ------------------------------------------------------------------------

DRAWN = frozenset("─│═▶")


def block_lines(text: str) -> list[str]:
    """Return the lines of code blocks that are no drawing.

    A line that ends with a backslash is joined to the next.
    """
    lines = re.findall(r"^    (.*)$", text, re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [line for line in joined if not DRAWN & set(line)]


def spans(text: str) -> list[str]:
    """Return the texts in backticks outside code blocks."""
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def words_of(line: str) -> list[str]:
    """Return the words of a command, or [] if the line is none.

    What stands behind two blanks explains the command, and is no part of it.
    """
    try:
        return shlex.split(re.split(r"\s{2,}", line.strip())[0])
    except ValueError:  # a sentence with an apostrophe
        return []


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command, and of the command that it gives to another host."""
    for line in (*block_lines(text), *spans(text)):
        words = words_of(line)
        yield words
        if "--" in words:
            yield words[words.index("--") + 1 :]


# --- commands and options ----------------------------------------------------------------------

PARSERS = {"migrate": move.parser, "migratectl": ctl.parser}
#: The arguments that a command needs where a document speaks of its options alone.
LEAST = {"migrate": ["CTR", "HOST"], "migratectl": []}
MIGRATION = "0" * 12
#: Options of other programs that documents name without the program.
FOREIGN = {"--rm", "--lazy-pages", "--system-site-packages"}
#: Options of pytest, to which scripts/test passes them on.
PYTESTS = {"-k", "-m", "--numprocesses"}
#: {script with options of its own: the files that declare them}.
DECLARED = {
    "rig": ["tests/rig/__main__.py"],
    "bench": ["tests/bench/__main__.py"],
    "fuzz": ["tests/fuzz/__main__.py"],
    "faults": ["tests/faults/__main__.py"],
    "figures": ["tests/figures/__main__.py"],
    "test": ["tests/conftest.py", "tests/contract/conftest.py"],
}
WITH_VERBS = ("rig", "fuzz", "faults")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return all options of a parser and of its sub-commands."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(*(options_of(child) for child in action.choices.values()))
    return found


def declared(script: str) -> str:
    return "".join((ROOT / name).read_text() for name in DECLARED.get(script, []))


def options_that_exist() -> set[str]:
    ours = set().union(*(options_of(make()) for make in PARSERS.values()))
    scripts = "".join(map(declared, DECLARED))
    return ours | FOREIGN | PYTESTS | set(re.findall(r'"(--[a-z-]+)"', scripts))


def wrong_commands(text: str, _: Path) -> list[str]:
    """Return the commands of the product that their parser refuses."""
    found = []
    for words in commands(text):
        name, *rest = words or [""]
        if name not in PARSERS or not rest:
            continue
        rest = [MIGRATION if word == "ID" else word for word in rest]
        if rest[0] == "recover" and not any(map(logs.IDENTITY.fullmatch, rest)):
            rest.append(MIGRATION)
        if all(word.startswith("-") for word in rest):
            rest += LEAST[name]
        try:
            PARSERS[name]().parse_args(rest)
        except BadRequest as error:
            found.append(f"{' '.join(words)}: {error.what}")
        except SystemExit:  # --help and --version end the program
            continue
    return found


def wrong_options(text: str, _: Path) -> list[str]:
    """Return the options in backticks that no program has, or whose value is refused."""
    found = []
    known = options_that_exist()
    migrates = options_of(move.parser())
    for span in spans(text):
        option, *value = span.split()
        if not option.startswith("--") or option == "--":
            continue
        if option not in known:
            found.append(f"there is no option {option}")
        elif value and option in migrates:
            try:
                move.parser().parse_args([*LEAST["migrate"], option, *value])
            except BadRequest as error:
                found.append(f"{span}: {error.what}")
    return found


def wrong_scripts(text: str, _: Path) -> list[str]:
    """Return the scripts that are not there, and their options and verbs that they do not have."""
    found = []
    for line in (*block_lines(text), *spans(text)):
        if not (match := re.match(r"scripts/([\w-]+)", line)):
            continue
        script = match[1]
        source = declared(script)
        if not (ROOT / "scripts" / script).is_file():
            found.append(f"there is no scripts/{script}")
        own, *_of_a_node = line.split(" -- ")
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", own[match.end() :]):
            if script in DECLARED and option not in PYTESTS and f'"{option}"' not in source:
                found.append(f"scripts/{script} has no option {option}")
        verbs = [word for word in words_of(line)[1:2] if word.isalpha() and script in WITH_VERBS]
        found += [f"scripts/{script} has no {v}" for v in verbs if f'"{v}"' not in source]
    return found


# --- files and links ---------------------------------------------------------------------------

#: A path from the root of the repository, which is no part of a longer one.
PATH = re.compile(
    r"(?<![\w./~-])(?:migrate|checkpoint|transport|tests|scripts|docs)/[\w./*-]*[\w/*]"
)
OWN_KINDS = (".py", ".md", ".svg", ".toml")
NOT_IN_THE_TREE = (".git", ".venv", "__pycache__")


def names_in_the_tree() -> set[str]:
    return {
        path.name
        for path in ROOT.rglob("*")
        if not set(NOT_IN_THE_TREE) & set(path.relative_to(ROOT).parts)
    }


def missing_paths(text: str, place: Path) -> list[str]:
    """Return the files that are named and not there.

    A path is looked for anywhere, a name without directories only in backticks.
    """
    found = [path for path in PATH.findall(text) if not list(ROOT.glob(path.rstrip("/")))]
    names = {span for span in spans(text) if re.fullmatch(r"[\w-]+\.\w+", span)}
    bare = {name for name in names if name.endswith(OWN_KINDS)}
    return found + sorted(bare - names_in_the_tree())


def missing_symbols(text: str, _: Path) -> list[str]:
    """Return the names that a module does not define, though the document says so.

    The document says so by `name` in `a/module.py`.
    """
    pairs = re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", text)
    return [f"{name} in {path}" for name, path in pairs if not defines(ROOT / path, name)]


def defines(module: Path, name: str) -> bool:
    """Return whether a module is there and defines a function, class or constant of a name."""
    definition = rf"^ *(?:def|class) {name}\b|^{name}\b.* = "
    return module.exists() and bool(re.search(definition, module.read_text(), re.MULTILINE))


def slug(heading: str) -> str:
    """Return the anchor that a forge makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def links(text: str) -> list[str]:
    """Return the targets of a document's relative links, as they are written."""
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"\w+:", link)]


def broken_links(text: str, place: Path) -> list[str]:
    """Return the relative links to a file or a heading that is not there."""
    found = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (place.parent / path).resolve() if path else place
        known = anchors(text if target == place else target.read_text()) if anchor else set()
        if not target.exists() or (anchor and anchor not in known):
            found.append(link)
    return found


# --- exit codes, wide lines --------------------------------------------------------------------


def all_codes() -> dict[int, str]:
    """Return {exit code: name of its error}, without those of interruptions."""
    return {code: kind.__name__ for kind, code in exit_codes.CODES.items()} | {
        code: name for name, code in exit_codes.CTL_CODES.items()
    }


def unknown_codes(text: str, _: Path) -> list[str]:
    """Return the numbers that are called exit codes and are none."""
    known = {0, *all_codes(), *(128 + number for number in INTERRUPTING)}
    lists = re.findall(r"exit codes?\s+((?:\d+)(?:(?:,\s|\sand\s|\sto\s|\sor\s)\d+)*)", text, re.I)
    return [
        f"exit code {number}"
        for numbers in lists
        for number in re.findall(r"\d+", numbers)
        if int(number) not in known
    ]


def wide_lines(text: str, _: Path) -> list[str]:
    """Return the lines of more than WIDTH columns."""
    return [
        f"line {number} has {len(line)} columns"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > WIDTH
    ]
