"""Numbers, keys, states, phases and messages in the documents are those of the code."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from checkpoint.engines.oci import stdio
from checkpoint.host import paths
from checkpoint.memory import proof
from migrate import leftovers, logs
from migrate.agent.state import State as AgentState
from migrate.decisions import compatibility, write_tracking
from migrate.decisions.convergence import Policy
from migrate.decisions.prediction import COSTS, Item
from migrate.decisions.state import State
from migrate.report import Fill, Instant, Interval, Proof, Report
from migrate.wire.message import Message, concrete
from tests.unit.documents.checks import DOCS, ROOT, spans
from transport import keepalive

GIB = 1 << 30

# --- numbers that the code decides -------------------------------------------------------------

NEEDED = [
    (".".join(map(str, linux)), compatibility.version_text(criu))
    for linux, criu, _ in compatibility.NEEDED_CRIU
]
PYTHON = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
TRACKS = re.search(r"(\d+\.\d+) on x86_64 can", inspect.getsource(write_tracking))
#: The RAM that a migration needs on the target: this share of the container's memory, and this
#: number of MiB besides.
RAM_MIB = str(compatibility.memory_needed(0) >> 20)
RAM_SHARE = str((compatibility.memory_needed(4 << 30) - compatibility.memory_needed(0)) / (4 << 30))
#: (document, pattern with a group for each value, the values).
FACTS: list[tuple[str, str, tuple[str, ...]]] = [
    (
        "README.md",
        r"CRIU ([\d.]+) on Linux ([\d.]+) and newer, "
        r"([\d.]+) from Linux ([\d.]+) on, ([\d.]+) before",
        (NEEDED[0][1], NEEDED[0][0], NEEDED[1][1], NEEDED[1][0], NEEDED[2][1]),
    ),
    (
        "README.md",
        r"both\s+older than ([\d.]+)",
        (compatibility.version_text(compatibility.WIRE_CHANGED),),
    ),
    ("README.md", r"Python ([\d.]+)", (PYTHON.removeprefix(">="),)),
    ("README.md", r"Linux ([\d.]+) on x86_64", (TRACKS[1] if TRACKS else "",)),
    ("docs/files.md", r"CRIU on Linux ([\d.]+) and newer \| ([\d.]+) ", NEEDED[0]),
    ("docs/files.md", r"CRIU on Linux ([\d.]+) to [\d.]+ \| ([\d.]+) ", NEEDED[1]),
    ("docs/files.md", r"CRIU on older kernels \| ([\d.]+) ", (NEEDED[2][1],)),
    ("docs/files.md", r"`python3` \(([\d.]+) or newer\)", (PYTHON.removeprefix(">="),)),
    ("docs/files.md", r"for pre-copy \| ([\d.]+) on x86_64", (TRACKS[1] if TRACKS else "",)),
    (
        "docs/files.md",
        r"([\d.]+) times the memory of the container and (\d+) MiB",
        (
            RAM_SHARE,
            RAM_MIB,
        ),
    ),
    ("docs/files.md", r"the newest (\d+) migrations stay", (str(logs.MOST_DIRECTORIES),)),
    ("docs/files.md", r"renamed to `CTR.log.1` at (\d+) MiB", (str(stdio.MOST_LOG_BYTES >> 20),)),
    ("docs/files.md", r"the newest (\w+) stay", ({4: "four"}[leftovers.MOST_IMAGES],)),
    (
        "docs/faq.md",
        r"A silence of (\d+) seconds",
        (f"{keepalive.INTERVAL_S * (keepalive.UNANSWERED + 1):.0f}",),
    ),
    ("docs/faq.md", r"\((\d+) ms\s+unless said otherwise\)", (str(Policy.max_downtime_ms),)),
    ("docs/faq.md", r"digests of (\d+) pages", (str(proof.SAMPLE_PAGES),)),
    (
        "docs/faq.md",
        r"([\d.]+) times the container's, and (\d+) MiB",
        (
            RAM_SHARE,
            RAM_MIB,
        ),
    ),
    *(
        ("docs/performance.md", rf"\| {item} \| ([\d.]+ \w+) ", (cost,))
        for item, cost in (
            ("the freeze itself", f"{COSTS[Item.FREEZE] / 1000:g} ms"),
            (r"a GiB of memory, [\w ]+", f"{COSTS[Item.MEMORY] * GIB / 1000:.0f} ms"),
            (r"a GiB that [\w ]+", f"{COSTS[Item.FROZEN] * GIB / 1e6:.1f} s"),
            ("a process", f"{COSTS[Item.PROCESSES] / 1000:g} ms"),
            ("a thread", f"{COSTS[Item.THREADS]:g} us"),
            ("a TCP connection", f"{COSTS[Item.CONNECTIONS]:g} us"),
            ("an open descriptor", f"{COSTS[Item.DESCRIPTORS]:g} us"),
            ("a mapping", f"{COSTS[Item.MAPPINGS]:g} us"),
            ("a file in a tree or tmpfs mount", f"{COSTS[Item.FILES]:g} us"),
            ("a tree with changing files", f"{COSTS[Item.CHANGING] / 1000:g} ms"),
        )
    ),
    ("docs/internals/decisions.md", r"A sample of (\d+)\s+pages", (str(proof.SAMPLE_PAGES),)),
]


def stated(text: str, pattern: str) -> list[tuple[str, ...]]:
    """Return the values that a document states, for each place where it does.

    A full stop at the end of a value ends the sentence, and is no part of the value.
    """
    found = re.findall(pattern, text)
    groups = [(match,) if isinstance(match, str) else match for match in found]
    return [tuple(value.rstrip(".") for value in values) for values in groups]


@pytest.mark.parametrize(("document", "pattern", "values"), FACTS)
def test_a_number_is_that_of_the_code(document: str, pattern: str, values: tuple[str, ...]) -> None:
    found = stated((ROOT / document).read_text(), pattern)
    assert found, "the document says nothing of it any more"
    assert set(found) == {values}


def test_another_number_is_seen() -> None:
    assert stated("CRIU on older kernels | 3.17 |", r"older kernels \| ([\d.]+) ") == [("3.17",)]


@pytest.mark.parametrize("path", [paths.RUN, paths.STATE, paths.LOGS, paths.DOCKER_RUNTIME])
def test_the_places_on_a_host_are_documented(path: Path) -> None:
    assert f"`{path}`" in (DOCS / "files.md").read_text()


# --- the report --------------------------------------------------------------------------------

PARTS = (Proof, Fill, Interval, Instant, compatibility.Facts)


def keys_of_reports() -> set[str]:
    """Return all keys of a report, and of the objects in it."""
    return own_keys() | {field.name for kind in PARTS for field in dataclasses.fields(kind)}


def own_keys() -> set[str]:
    """Return the keys of a report itself."""
    return set(Report.begin("web", "beta").to_json())


def keys_in_prose(text: str) -> list[str]:
    """Return the words that report.md uses as keys.

    These are the words in backticks with an underscore, and those at the head of an item.
    """
    items = re.findall(r"^- (`[^:]+`):", text, re.MULTILINE)
    names = [name for item in items for name in re.findall(r"`(\w+)`", item)]
    return [
        *names,
        *(span for span in spans(text) if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", span)),
    ]


def section(text: str, title: str) -> str:
    """Return the text beneath a heading, up to the next heading."""
    _, _, rest = text.partition(f"\n## {title}")
    return rest.partition("\n## ")[0]


def test_keys_that_report_md_names_are_those_of_a_report() -> None:
    text = (DOCS / "report.md").read_text()
    outcomes = {state.value for state in State} | {"refused"}
    kinds = {"image", "rootfs", "volumes", "tmpfs", "output", "pages", "images"}
    known = keys_of_reports() | outcomes | kinds
    assert set(keys_in_prose(text)) - known == set()


def test_a_key_that_no_report_has_is_seen() -> None:
    text = "- `whole`: true.\n- `compare`: how many.\n\nSee `downtime_ms`.\n"
    assert set(keys_in_prose(text)) - keys_of_reports() == {"compare", "downtime_ms"}


@pytest.mark.parametrize(("title", "kind"), [("`proof`", Proof), ("`fill`", Fill)])
def test_each_part_of_a_report_is_documented(title: str, kind: type[Proof | Fill]) -> None:
    items = re.findall(
        r"^- (`.+?`):", section((DOCS / "report.md").read_text(), title), re.MULTILINE
    )
    names = {name for item in items for name in re.findall(r"`(\w+)`", item)}
    assert names == {field.name for field in dataclasses.fields(kind)}


def test_the_report_that_is_shown_has_the_keys_of_reports() -> None:
    shown = set(
        re.findall(r'"(\w+)": ', section((DOCS / "first-move.md").read_text(), "The move back"))
    )
    kinds = {"rootfs", "volumes", "tmpfs", "pages", "images", "source", "target"}
    items = {item.key for item in Item}
    assert shown - keys_of_reports() - kinds - items == set()
    assert own_keys() <= shown


# --- phases, states, messages ------------------------------------------------------------------


def first_cells(text: str) -> list[str]:
    """Return the first cells of the rows of a document's tables, without head and rule."""
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [row for row in rows if row != "state"]


def test_the_states_are_those_of_both_ends() -> None:
    text = (DOCS / "internals" / "states.md").read_text()
    assert first_cells(text) == [
        *(state.value for state in (*list(State)[:-2], State.ROLLING_BACK, State.ROLLED_BACK)),
        *(state.value for state in AgentState),
    ]


def test_the_phases_are_those_of_the_report() -> None:
    modules = [ROOT / "migrate/coordinator.py", *(ROOT / "migrate/phases").glob("*.py")]
    sources = "".join(path.read_text() for path in modules)
    timed = re.findall(r'\.phase\("([a-z -]+)"\)', sources)
    text = (DOCS / "internals" / "architecture.md").read_text()
    assert sorted(re.findall(r"\| `([a-z -]+)` \| [a-z]+ \|$", text, re.MULTILINE)) == sorted(timed)


def named_messages(text: str) -> set[str]:
    """Return the names in the drawing of the sequence in protocol.md.

    A name has a capital letter and small ones.
    """
    return set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b", section(text, "Sequence")))


def test_the_sequence_names_every_message() -> None:
    words = named_messages((DOCS / "internals" / "protocol.md").read_text())
    messages = {
        kind.__name__ for kind in concrete(Message) if kind.__module__ == "migrate.wire.protocol"
    }
    answers_in_general = {"Failed", "Log", "LogsFound", "Trace"}
    by_other_names = {"AddressesFound", "PathsFound", "Examined", "TmpfsMade", "TreeListed"}
    sentences = {"On", "An"}
    assert words - messages == sentences
    assert messages - words - answers_in_general - by_other_names == set()


def test_a_message_that_is_none_is_seen() -> None:
    assert named_messages("\n## Sequence\n\n    Hallo ──▶ Welcome\n\n## More\nBye") == {
        "Hallo",
        "Welcome",
    }
