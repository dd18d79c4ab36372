"""Rules of the product's modules and of the unit tests, read from their source.

The rules say which module may import which, and that each foreign thing has one door: a module
through which alone it is reached.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("migrate", "checkpoint", "transport")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: Modules without input and output: two packages, and some modules in others.
PURE = [
    "migrate/decisions/",
    "migrate/wire/",
    *(
        f"migrate/{name}.py"
        for name in ("errors", "observer", "options", "text", "agent/state", "memory/encoding")
    ),
]
UNIT = ROOT / "tests/unit"
#: Directories of tests/unit that mirror packages.
MIRRORS = (*PACKAGES, "tests")
#: The other directories: whole migrations, documents, and what takes several modules.
OTHER_DIRECTORIES = {"story", "documents", "across"}
UNIT_TESTS = sorted(UNIT.rglob("test_*.py"))
#: All files of the tests that run without the rig.
TEST_FILES = sorted(
    path for name in ("unit", "contract", "fakes") for path in (ROOT / "tests" / name).rglob("*.py")
)
MOST_LINES, MOST_COLUMNS = 400, 100
#: Modules that are lists, of which people look up one entry, may be longer.
LISTS = {"migrate/wire/protocol.py": 510, "migrate/errors.py": 460}
MOST_FUNCTION_LINES = 60
#: {foreign package: the only modules that may import it}.
DOORS = {
    "paramiko": ("transport/ssh.py", "transport/ssh_config.py"),
    "pycriu": ("checkpoint/criu/rpc.py",),
    "google": ("checkpoint/criu/rpc.py",),
    "rich": ("migrate/cli/",),
    "psutil": ("checkpoint/host/cpu_limit.py",),
}
#: The modules that may print. The agent's standard error is a channel to the source, which reads it
#: as text of a peer.
PRINT = ("migrate/cli/console.py", "migrate/cli/progress.py", "migrate/agent/server.py")
#: The modules that may ask for the time of day, which somebody may set in the middle of a move: for
#: people (entries of journals, reports, locks), for the validity of a host's certificate, and to
#: tell a file that has just been written, whose time is of the same clock.
TIME_OF_DAY = (
    "migrate/journal/book.py",
    "migrate/report.py",
    "migrate/cli/status.py",
    "checkpoint/host/lock.py",
    "checkpoint/files/changes.py",
    "transport/ssh.py",
)
ASKS_THE_TIME = re.compile(
    r"\btime\.(time|time_ns|localtime|gmtime)\(|\bdate(time)?\.(now|utcnow|today)\(|\.CLOCK_REAL"
)
STARTS_PROCESSES = {"run", "Popen", "call", "check_call", "check_output", "getoutput"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_modules_are_found() -> None:
    assert len(MODULES) > 50


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_packages_import_only_what_is_beneath_them(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imports(path)} & set(PACKAGES)
    if package != "migrate":
        assert used <= {package}
    if not name_of(path).startswith("migrate/cli/"):
        assert not any(name.startswith("migrate.cli") for name in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_door_to_each_foreign_package(path: Path) -> None:
    for foreign, doors in DOORS.items():
        if any(name.split(".")[0] == foreign for name in imports(path)):
            assert name_of(path).startswith(doors), f"{foreign} has a door of its own"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_door_to_other_programs(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if (
                isinstance(owner, ast.Name)
                and owner.id == "subprocess"
                and node.func.attr in STARTS_PROCESSES
            ):
                assert name_of(path) == "checkpoint/host/run.py"


#: Programs with the standard library only, which run by themselves or in another process's place.
LONE_PROGRAMS = {
    "checkpoint/criu/shim.py",
    "checkpoint/engines/docker/oci_wrapper.py",
    "checkpoint/files/enclose.py",
    "checkpoint/memory/tracking/inject.py",
    "migrate/agent/bootstrap.py",
    "migrate/agent/plug.py",
}
#: {pattern: the only modules with a line that matches}.
SPELLED_ONCE = {
    r"ctypes\.(CDLL|cdll|PyDLL|pythonapi)": {"checkpoint/host/kernel.py"},
    r"\bThread\(|start_new_thread": {
        "checkpoint/host/worker.py",
        "transport/keepalive.py",  # transport imports nothing of checkpoint
    },
    r"""f?["']/proc\b""": {"checkpoint/host/proc.py"},
    r"""["']/(run|var/lib|var/log)/migrate|sbin/migrate""": {"checkpoint/host/paths.py"},
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_door_to_the_kernel_threads_proc_and_paths(path: Path) -> None:
    if name_of(path) in LONE_PROGRAMS:
        return
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for pattern, doors in SPELLED_ONCE.items():
            if re.search(pattern, line):
                assert name_of(path) in doors, f"line {number}: see {sorted(doors)[0]}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_lone_programs_import_nothing_of_this_project(path: Path) -> None:
    if name_of(path) in LONE_PROGRAMS:
        used = {name for name in imports(path) if name.split(".")[0] in PACKAGES}
        # The bootstrap imports the agent, once it has received it.
        assert used <= {"migrate.agent.server", "migrate.agent.server.main"}
        assert not used or name_of(path) == "migrate/agent/bootstrap.py"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_door_to_the_terminal(path: Path) -> None:
    """A peer or a container may have chosen what is printed.

    migrate/cli/console.py makes such text harmless.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ):
            assert name_of(path) in PRINT


#: System calls that may do less than they were asked, whose door is checkpoint/host/whole.py. A
#: line elsewhere that calls one says why a short result is right there.
SHORT_CALLS = {
    "read",
    "readv",
    "pread",
    "preadv",
    "write",
    "writev",
    "pwrite",
    "pwritev",
    "sendfile",
    "splice",
}
SHORT_RESULT = "# short result: "
#: Verbs of sockets, and the modules that may use them: a message is whole there, or the module
#: waits for all of it.
SOCKET_VERBS = {
    "send",
    "sendto",
    "sendmsg",
    "recv",
    "recv_into",
    "recvfrom",
    "recvmsg",
    "send_fds",
    "recv_fds",
}
SOCKET_USERS = {
    "checkpoint/criu/": "SEQPACKET; page_server.py reads its stream to the end of each message",
    "checkpoint/memory/": "SEQPACKET; pager.py reads CRIU's numbers with MSG_WAITALL",
    "checkpoint/network/": "netlink and packet sockets",
    "checkpoint/engines/docker/incoming.py": "SEQPACKET",
    "checkpoint/engines/docker/oci_wrapper.py": "SEQPACKET",
    "checkpoint/host/detached.py": "SEQPACKET",
    "migrate/agent/": "SEQPACKET, or frames (transport/framing.py)",
    "migrate/files/tree_door.py": "SEQPACKET",
    "migrate/guardian/": "SEQPACKET",
    "migrate/memory/channels.py": "frames",
    "migrate/memory/receiver.py": "SEQPACKET, or frames",
    "transport/": "streams, whose readers go on until they have enough",
}


def attribute_calls(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (name before the dot or "", name behind the dot, line) of each call of an attribute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            yield owner.id if isinstance(owner, ast.Name) else "", node.func.attr, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_short_results_of_system_calls_are_expected(path: Path) -> None:
    lines = path.read_text().splitlines()
    for owner, name, line in attribute_calls(path):
        assert name != "process_vm_readv", (
            "it unshares what processes share (checkpoint/memory/process_memory.py)"
        )
        if owner == "os" and name in SHORT_CALLS and name_of(path) != "checkpoint/host/whole.py":
            assert SHORT_RESULT in lines[line - 1], f"line {line}: see checkpoint/host/whole.py"
        if name in SOCKET_VERBS:
            assert name_of(path).startswith(tuple(SOCKET_USERS)), (
                f"line {line}: say why in SOCKET_USERS"
            )


#: Functions of os and shutil that go through directories by path.
WALKS = {
    "walk",
    "fwalk",
    "scandir",
    "rmtree",
    "copytree",
    "copyfile",
    "copy",
    "copy2",
    "move",
    "chown",
}
#: Modules that may call these functions, in directories where no container writes.
WALKERS = {
    "checkpoint/criu/predump.py",
    "checkpoint/host/cgroups.py",
    "checkpoint/host/ram_directory.py",
    "migrate/leftovers.py",
    "migrate/logs.py",
}
DOOR = "checkpoint/files/beneath.py"
#: This module opens files in a directory of podman's own.
OTHER_DESCRIPTORS = "checkpoint/engines/podman/store.py"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_door_to_what_a_container_can_write(path: Path) -> None:
    """Other programs go to such files in enclosures, and this program by descriptors.

    No module joins a path of a container's to a root.
    """
    name = name_of(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            if called in {"run", "start", "Popen", "execv"}:
                assert not {"rsync", "tar"} & {word for word in words if isinstance(word, str)}
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if owner in {"os", "shutil"} and called in WALKS:
                assert name in WALKERS | {DOOR}, f"{called}: see {DOOR}"
            if any(keyword.arg == "dir_fd" for keyword in node.keywords):
                assert name in {DOOR, OTHER_DESCRIPTORS}
            if called == "openat2":
                assert name == DOOR
            if called == "start_enclosed":
                assert name.startswith("checkpoint/files/") or name == "migrate/files/tree_door.py"
        if (
            isinstance(node, ast.JoinedStr)
            and "/root" in ast.unparse(node)
            and "/proc/" in ast.unparse(node)
        ):
            assert name == DOOR


@pytest.mark.parametrize(
    "path", [path for path in MODULES if name_of(path).startswith(tuple(PURE))], ids=name_of
)
def test_decisions_do_no_io(path: Path) -> None:
    used = {imported.split(".")[0] for imported in imports(path)}
    assert not used & {
        "os",
        "socket",
        "subprocess",
        "threading",
        "pathlib",
        "paramiko",
        "select",
        "time",
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_one_door_to_the_time_of_day(path: Path) -> None:
    asks = ASKS_THE_TIME.search(path.read_text()) is not None
    assert asks == (name_of(path) in TIME_OF_DAY)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LISTS.get(name_of(path), MOST_LINES)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MOST_FUNCTION_LINES, node.name


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_waits_by_select(package: str) -> None:
    """select(2) knows no descriptor beyond 1023 (checkpoint/host/ready.py)."""
    found = [
        path for path in (ROOT / package).rglob("*.py") if "select.select(" in path.read_text()
    ]
    assert found == []


def test_the_agent_brings_all_it_imports() -> None:
    """Every module of the product that the agent's server reaches is in the zipapp."""
    from migrate.agent.zipapp import CONTENTS

    packed = {path for pattern in CONTENTS for path in ROOT.glob(pattern)}
    pending, seen = [ROOT / "migrate/agent/server.py"], set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports(path):
            base = ROOT / Path(*name.split("."))
            pending += [
                file for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists()
            ]
    assert seen <= packed, sorted(map(name_of, seen - packed))
    assert {name.split(".")[0] for path in seen for name in imports(path)}.isdisjoint(
        {"paramiko", "rich", "psutil"}
    )


@pytest.mark.parametrize("path", UNIT_TESTS, ids=name_of)
def test_each_unit_test_has_the_name_of_its_module(path: Path) -> None:
    """The tests of `a/b/c.py`, and of no other module, are in `tests/unit/a/b/test_c.py`.

    Where they are many they are in files of the directory `tests/unit/a/b/c`.
    """
    place = path.relative_to(UNIT)
    if place.parts[0] in OTHER_DIRECTORIES:
        return
    assert place.parts[0] in MIRRORS
    module = ROOT / place.parent / place.stem.removeprefix("test_")
    found = (module.with_suffix(".py"), module / "__init__.py", module.parent.with_suffix(".py"))
    assert any(map(Path.is_file, found)), f"there is no {name_of(module)}.py"


@pytest.mark.parametrize("path", TEST_FILES, ids=name_of)
def test_files_of_tests_are_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert not [number for number, line in enumerate(lines, 1) if len(line) > MOST_COLUMNS]


@pytest.mark.parametrize("path", TEST_FILES, ids=name_of)
def test_tests_replace_nothing_private_by_its_name(path: Path) -> None:
    """A name in a string is overlooked when the module changes."""
    assert not re.findall(r'attr\([^()]*["\'.]_[a-z]', path.read_text())
