"""A container that exchanges directories with symlinks under the tool reads and writes nothing of either host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import RolledBack
from tests.clients import REDIS_PORT, ask
from tests.integration.conftest import REDIS_ADDRESS, Hosts
from tests.rig import Container, Node, until
from tests.rig.engine import EngineContainer
from tests.services import REDIS_IMAGE

ADDRESS = "10.77.0.61"
#: What every host has and no container may see; each host's has another text, all of them equally long.
HIDDEN = "/root/hidden/secret.txt"
PROGRAM = Path(__file__).parent.parent / "workloads/swapper.py"
#: Where the container's files are that it plays with, and the options by which its engine gives it the place.
PLACES = {
    "rootfs": ("/srv/hostile", ()),
    "volume": ("/data/hostile", ("--volume", "hostile:/data")),
    "tmpfs": ("/scratch/hostile", ("--tmpfs", "/scratch")),
    "shm": ("/dev/shm/hostile", ()),  # noqa: S108
}

#: Somebody else who may write the container's files, and is not frozen with it: all the time DIR/p and DIR/q change
#: places, of which one leads out, and the file is written anew. It ends when DIR is gone.
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
    """A tree is looked at by the tool, by rsync, and by the tool again before the freeze; a tmpfs by the tool alone."""
    way = Path(HIDDEN).parent.parent
    words = [
        "--dir",
        directory,
        "--leads-to",
        str(way),
        "--name",
        str(Path(HIDDEN).relative_to(way)),
    ]
    words += [
        "--skip",
        *(("2", "0") if tree and not overlay else ("0", "0")),
        *(["--overlay"] if overlay else []),
    ]
    return ["python3", "-c", PROGRAM.read_text(), *words]


def secret_of(node: Node) -> str:
    return f"secret of {node.name:>6}"


@pytest.fixture(autouse=True)
def tidied(hosts: Hosts) -> Iterator[None]:
    yield
    for node in (hosts.alpha, hosts.beta):
        node.run(["rm", "-rf", str(Path(HIDDEN).parent)])


def plant(source: Node, target: Node, *, to_read: bool) -> dict[Node, str]:
    """Hide a file on the target, that the container may want to write, and one on the source that it may want to read.

    tar on the source complains of a directory that is where a symlink leads, and so must not find one.
    """
    source.run(["rm", "-rf", str(Path(HIDDEN).parent)])
    hidden = {node: secret_of(node) for node in ((source, target) if to_read else (target,))}
    for node, text in hidden.items():
        node.run(["sh", "-c", f"mkdir -p {Path(HIDDEN).parent}; cat > {HIDDEN}"], input=text)
    return hidden


def attacked(
    hosts: Hosts, name: str, directory: str, in_container: Callable[[Node, str], str], *, tree: bool
) -> None:
    """Move it there and back. `in_container` runs words of a shell in the container on a node."""
    source = hosts.alpha
    until(lambda: "decoy" in in_container(source, f"ls {directory}/z"), "the container to be ready")
    for _ in range(2):
        target = hosts.other(source)
        hidden = plant(source, target, to_read=tree)
        done = hosts.migrate(source, name, target.name)
        for node, text in hidden.items():
            assert node.run(["ls", str(Path(HIDDEN).parent)]).stdout == f"{Path(HIDDEN).name}\n"
            assert node.run(["cat", HIDDEN]).stdout == text
        assert done.returncode == 0, done.stderr
        until(lambda: in_container(target, f"ls {directory}/done"), "the attack to be over")  # noqa: B023
        found = in_container(target, f"cat {directory}/p/d/*/*; echo; stat -c %N {directory}/q/d")
        assert found.startswith("mine"), found
        assert found.endswith(f"-> '{Path(HIDDEN).parent.parent}'\n"), found
        in_container(target, f"rm {directory}/done; kill -USR1 1")
        source = target


@pytest.mark.parametrize("place", ["rootfs", "shm"])
def test_of_runc(hosts: Hosts, place: str) -> None:
    directory, _ = PLACES[place]
    container = hosts.alpha.start_container(
        "hostile", ip=ADDRESS, argv=argv(directory, tree=place != "shm")
    )

    def in_container(node: Node, words: str) -> str:
        return node.run(["runc", "exec", container.name, "sh", "-c", words], check=False).stdout

    attacked(hosts, container.name, directory, in_container, tree=place != "shm")
    Container(node=hosts.alpha, name="hostile", address=ADDRESS).remove()


def _removed(node: Node, place: str) -> bool:
    return node.run(["rm", "-rf", place], check=False).returncode == 0


def test_of_somebody_else_while_it_is_frozen(hosts: Hosts, redis: Container) -> None:
    """A move may fail of it; what it has copied by then is the container's own."""
    source = hosts.alpha
    way, name = (
        Path(HIDDEN).parent.parent,
        str(Path(HIDDEN).relative_to(Path(HIDDEN).parent.parent)),
    )
    for _ in range(4):
        target = hosts.other(source)
        hidden = plant(source, target, to_read=True)
        place = f"{redis.bundle}/rootfs/srv/hostile"
        with source.popen(
            ["python3", "-c", SWAPPING, place, str(way), name], stdout=subprocess.PIPE
        ) as swapping:
            assert swapping.stdout is not None
            assert swapping.stdout.readline() == "ready\n"
            done = hosts.migrate(source, redis.name, target.name)
            # It may make a file anew in what is being removed.
            until(partial(_removed, source, place), "it to end")
        for node, text in hidden.items():
            assert node.run(["ls", str(Path(HIDDEN).parent)]).stdout == f"{Path(HIDDEN).name}\n"
            assert node.run(["cat", HIDDEN]).stdout == text
        arrived = [
            "find",
            str(redis.bundle),
            "-xdev",
            "-path",
            "*hostile*",
            "-type",
            "f",
            "-exec",
            "cat",
            "{}",
            "+",
        ]
        assert "secret" not in target.run(arrived, check=False).stdout, done.stderr
        if done.returncode == 0:
            source = target
        assert done.returncode in (0, CODES[RolledBack]), done.stderr
        assert replace(redis, node=source).status == "running", done.stderr
        target.run(["rm", "-rf", place])
    assert ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG"


@pytest.mark.checkered
@pytest.mark.parametrize("place", PLACES)
def test_of_an_engine(hosts: Hosts, engine: str, place: str) -> None:
    directory, options = PLACES[place]
    options = (*options, "--volume", "/usr:/usr:ro")  # where its Python is
    tree = (engine, place) not in {("podman", "tmpfs"), ("docker", "tmpfs"), ("docker", "shm")}
    container = EngineContainer.start(
        hosts.alpha,
        engine,
        "hostile",
        REDIS_IMAGE,
        argv(directory, tree=tree, overlay=place == "rootfs"),
        address=ADDRESS,
        options=options,
    )

    def in_container(node: Node, words: str) -> str:
        return container.on(node).do("exec", "hostile", "sh", "-c", words, check=False)

    try:
        attacked(hosts, "hostile", directory, in_container, tree=tree)
    finally:
        for node in (hosts.alpha, hosts.beta):
            container.on(node).remove()
            node.run([engine, "volume", "rm", "hostile"], check=False)
            node.run(["rm", "-rf", "/var/lib/migrate"])
