"""A container that exchanges directories with symlinks under the tool gets at nothing of a host.

Neither does it read a file of the host's, nor does it have one written.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import RolledBack
from tests.rig import Container, EngineContainer, Node, Redis, until
from tests.rig.clients import PROGRAMS
from tests.rig.hosts import Hosts
from tests.rig.services import REDIS_IMAGE
from tests.rig.workload import ADDRESS

#: A file that every host has and no container may see. Each host's has another text, and all texts
#: are equally long.
HIDDEN = Path("/root/hidden/secret.txt")
#: The directory to which the container's symlinks lead, and the hidden file seen from there.
WAY = HIDDEN.parent.parent
NAME = str(HIDDEN.relative_to(WAY))
SWAPPER = (PROGRAMS / "swapper.py").read_text()
#: Where the container has the files with which it plays, and the options by which its engine gives
#: it the place.
PLACES = {
    "rootfs": ("/srv/hostile", ()),
    "volume": ("/data/hostile", ("--volume", "hostile:/data")),
    "tmpfs": ("/scratch/hostile", ("--tmpfs", "/scratch")),
    "shm": ("/dev/shm/hostile", ()),  # noqa: S108
}
#: What an engine has in RAM, and the tool therefore copies by itself and not by rsync.
IN_RAM = {("podman", "tmpfs"), ("docker", "tmpfs"), ("docker", "shm")}

#: Somebody else who may write the container's files and is not frozen with it. All the time DIR/p
#: and DIR/q change places, of which one leads out, and the file is written anew. The program ends
#: when DIR is gone. argv: DIR, where DIR/q/d leads to, the file's name.
SWAPPING = """
import ctypes, os, sys, time
directory, leads_to, name = sys.argv[1:]
exchange = ctypes.CDLL(None).renameat2
os.makedirs(f"{directory}/p/d/{os.path.dirname(name)}")
os.mkdir(f"{directory}/q")
os.symlink(leads_to, f"{directory}/q/d")
os.chdir(directory)
print("ready", flush=True)
number = 0
while os.path.exists(f"{directory}/p"):
    with open(f"p/d/{name}", "w") as file:
        file.write(f"mine {number}")
    number += 1
    time.sleep(0.003)
    exchange(-100, b"p", -100, b"q", 2)
    time.sleep(0.003)
    exchange(-100, b"p", -100, b"q", 2)
"""


def argv(directory: str, *, tree: bool, overlay: bool = False) -> list[str]:
    """Return the command of the hostile container.

    `tree` says that the place is one that rsync copies: the tool looks at it before rsync does,
    and again before the freeze. A tmpfs is looked at by the tool alone. On an `overlay` nobody is
    seen to look (workloads/swapper.py).
    """
    words = ["--dir", directory, "--leads-to", str(WAY), "--name", NAME]
    words += ["--skip", *(("2", "0") if tree and not overlay else ("0", "0"))]
    return ["python3", "-c", SWAPPER, *words, *(["--overlay"] if overlay else [])]


@pytest.fixture(autouse=True)
def tidied(hosts: Hosts) -> Iterator[None]:
    """The hidden files are removed afterwards."""
    yield
    for node in hosts.both:
        node.run(["rm", "-rf", str(HIDDEN.parent)])


def plant(source: Node, target: Node, *, to_read: bool) -> dict[Node, str]:
    """Hide a file on the target, which the container may want to write, and return all texts.

    `to_read` hides another on the source, which the container may want to read. tar on the source
    complains of a directory that is where a symlink leads, and so must not find one.
    """
    source.run(["rm", "-rf", str(HIDDEN.parent)])
    nodes = (source, target) if to_read else (target,)
    hidden = {node: f"secret of {node.name:>6}" for node in nodes}
    for node, text in hidden.items():
        node.run(["sh", "-c", f"mkdir -p {HIDDEN.parent}; cat > {HIDDEN}"], input=text)
    return hidden


def assert_untouched(hidden: dict[Node, str]) -> None:
    """Assert that the hidden files are as they were planted, with no others beside them."""
    for node, text in hidden.items():
        assert node.run(["ls", str(HIDDEN.parent)]).stdout == f"{HIDDEN.name}\n"
        assert node.run(["cat", str(HIDDEN)]).stdout == text


def attacked(
    hosts: Hosts, name: str, directory: str, in_container: Callable[[Node, str], str], *, tree: bool
) -> None:
    """Move a hostile container to beta and back; each time it attacks once, and gets nothing.

    `in_container` runs words of a shell in the container on a node, and returns what they print.
    """
    source = hosts.alpha
    until(lambda: "decoy" in in_container(source, f"ls {directory}/z"), "the container to be ready")
    for _ in range(2):
        target = hosts.other(source)
        hidden = plant(source, target, to_read=tree)
        done = hosts.migrate(source, name, target.name)
        assert_untouched(hidden)
        assert done.returncode == 0, done.stderr
        attack_is_over = partial(in_container, target, f"ls {directory}/done")
        until(attack_is_over, "the attack to be over")
        found = in_container(target, f"cat {directory}/p/d/*/*; echo; stat -c %N {directory}/q/d")
        assert found.startswith("mine"), found
        assert found.endswith(f"-> '{WAY}'\n"), found
        in_container(target, f"rm {directory}/done; kill -USR1 1")
        source = target


@pytest.mark.parametrize("place", ["rootfs", "shm"])
def test_a_container_of_runc_gets_at_nothing(hosts: Hosts, place: str) -> None:
    directory, _ = PLACES[place]
    tree = place != "shm"
    hosts.alpha.start_container("hostile", ip=ADDRESS, argv=argv(directory, tree=tree))

    def in_container(node: Node, words: str) -> str:
        return node.run(["runc", "exec", "hostile", "sh", "-c", words], check=False).stdout

    attacked(hosts, "hostile", directory, in_container, tree=tree)


def _removed(node: Node, place: str) -> bool:
    return node.run(["rm", "-rf", place], check=False).returncode == 0


def test_somebody_else_who_writes_its_files_gets_at_nothing(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    """A move may fail of it; what the move has copied by then is the container's own."""
    place = f"{redis.container.bundle}/rootfs/srv/hostile"
    look = ["find", str(redis.container.bundle), "-xdev", "-path", "*hostile*", "-type", "f"]
    for _ in range(4):
        source, target = redis.node, hosts.other(redis.node)
        hidden = plant(source, target, to_read=True)
        swap = ["python3", "-c", SWAPPING, place, str(WAY), NAME]
        with source.popen(swap, stdout=subprocess.PIPE) as swapping:
            assert swapping.stdout is not None
            assert swapping.stdout.readline() == "ready\n"
            done = hosts.migrate(source, "redis", target.name)
            # The program may make a file anew in what is being removed.
            until(partial(_removed, source, place), "the program's files to be removed")
        assert_untouched(hidden)
        arrived = target.run([*look, "-exec", "cat", "{}", "+"], check=False).stdout
        assert "secret" not in arrived, done.stderr
        assert done.returncode in (0, CODES[RolledBack]), done.stderr
        if done.returncode == 0:
            redis = redis.on(target)
        assert redis.status == "running", done.stderr
        target.run(["rm", "-rf", place])
    assert redis.answers()


@pytest.mark.checkered
@pytest.mark.parametrize("place", PLACES)
def test_a_container_of_an_engine_gets_at_nothing(hosts: Hosts, engine: str, place: str) -> None:
    directory, options = PLACES[place]
    tree = (engine, place) not in IN_RAM
    container = EngineContainer.start(
        hosts.alpha,
        engine,
        "hostile",
        REDIS_IMAGE,
        argv(directory, tree=tree, overlay=place == "rootfs"),
        address=ADDRESS,
        options=(*options, "--volume", "/usr:/usr:ro"),  # where its Python is
    )

    def in_container(node: Node, words: str) -> str:
        return container.on(node).do("exec", "hostile", "sh", "-c", words, check=False)

    try:
        attacked(hosts, "hostile", directory, in_container, tree=tree)
    finally:
        for node in hosts.both:
            container.on(node).remove()
            node.run([engine, "volume", "rm", "hostile"], check=False)
            node.run(["rm", "-rf", "/var/lib/migrate"])
