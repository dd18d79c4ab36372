"""The rig from the command line: scripts/rig."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.rig import engine, names
from tests.rig.container import Container
from tests.rig.engine import EngineContainer
from tests.rig.errors import BadUsage, RigError
from tests.rig.rig import Rig
from tests.rig.services import REDIS_IMAGE, write_redis

RUNTIMES = ("runc", "crun")
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def up(rig: Rig, arguments: argparse.Namespace) -> None:
    """Make the rig."""
    made = rig.up(arguments.nodes, vm=arguments.vm)
    print(f"rig {rig.name} is {'' if made else 'already '}up: {_list_of_nodes(rig)}")


def down(rig: Rig, arguments: argparse.Namespace) -> None:
    """Remove every trace of the rig."""
    rig.down()
    print(f"rig {rig.name} is down")


def status(rig: Rig, arguments: argparse.Namespace) -> None:
    """Print the nodes, and the containers of every engine on each of them."""
    if not rig.nodes:
        print(f"rig {rig.name} is down")
        return
    print(f"rig {rig.name} is up" if rig.is_up() else f"rig {rig.name} is broken: take it down")
    for node in rig.nodes:
        if not node.is_running():
            print(f"  {node.name:8} {node.address:12} not running")
            continue
        found = [f"{own}: {' '.join(those)}" for own, those in engine.containers(node).items()]
        containers = "; ".join(found) or "no containers"
        print(f"  {node.name:8} {node.address:12} pid {node.pid}  {containers}")


def execute(rig: Rig, arguments: argparse.Namespace) -> None:
    """Become the command, so that its streams, signals and status are this process's."""
    place = rig.switch if arguments.node == names.SWITCH and rig.nodes else rig.node(arguments.node)
    if not arguments.command:
        raise BadUsage("no command given: write it after --")
    command = list(place.command(arguments.command))
    os.execvp(command[0], command)  # noqa: S606


def copy(rig: Rig, arguments: argparse.Namespace) -> None:
    """Copy a file or a directory into a node."""
    name, separator, path = arguments.target.partition(":")
    if not separator or not path.startswith("/"):
        raise BadUsage(f"{arguments.target!r} is no place to copy to: write NODE:/PATH")
    rig.node(name).copy(arguments.file, path)


def run_container(rig: Rig, arguments: argparse.Namespace) -> None:
    """Run a container on a node."""
    if not arguments.command:
        raise BadUsage("no command given for the container")
    if arguments.engine in RUNTIMES:
        log = str(_run_by_runtime(rig, arguments).log)
    else:
        _run_by_engine(rig, arguments)
        log = f"{arguments.engine} logs {arguments.name}"
    place = f"{arguments.node} at {arguments.ip}"
    print(f"container {arguments.name} runs on {place} (log: {log} there)")


def _run_by_runtime(rig: Rig, arguments: argparse.Namespace) -> Container:
    return rig.node(arguments.node).start_container(
        arguments.name,
        ip=arguments.ip,
        argv=arguments.command,
        memory=arguments.memory,
        runtime=arguments.engine,
    )


def _run_by_engine(rig: Rig, arguments: argparse.Namespace) -> None:
    """Run a container of podman's or docker's, in the image with redis.

    The engine is set up on every node first, for a container moves to an engine of the same name.
    """
    node, address = rig.node(arguments.node), names.check_address(arguments.ip)
    with tempfile.TemporaryDirectory(prefix="rig-image-") as scratch:
        archive = Path(scratch) / "redis.tar"
        for each in rig.nodes:
            if not engine.is_set_up(each, arguments.engine):
                if not archive.exists():
                    write_redis(archive)
                engine.set_up(each, arguments.engine)
                engine.load(each, arguments.engine, archive)
    EngineContainer.start(
        node,
        arguments.engine,
        arguments.name,
        REDIS_IMAGE,
        arguments.command,
        address=address,
        options=["--memory", arguments.memory] if arguments.memory else [],
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of all that comes before the `--` of a command line."""
    top = argparse.ArgumentParser(
        prog="scripts/rig",
        description="Hosts made of namespaces, or virtual machines, on one machine.",
    )
    top.add_argument(
        "--name", dest="rig", default=names.DEFAULT_RIG, help="which rig (default: %(default)s)"
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("up", help="make the rig")
    verb.add_argument(
        "--nodes",
        type=int,
        default=2,
        help="how many nodes: alpha, beta, ... (default: %(default)s)",
    )
    verb.add_argument(
        "--vm",
        action="store_true",
        help="virtual machines with a kernel of their own, emulated: slow",
    )
    verb.set_defaults(action=up)

    verb = verbs.add_parser("down", help="remove every trace of it")
    verb.set_defaults(action=down)

    verb = verbs.add_parser("status", help="list the nodes and their containers")
    verb.set_defaults(action=status)

    command = "The command comes last, after '--'."
    verb = verbs.add_parser(
        "exec", help="run a command in a node, or in the switch's network", epilog=command
    )
    verb.add_argument("node", metavar="NODE|switch")
    verb.set_defaults(action=execute)

    verb = verbs.add_parser("copy", help="copy a file or directory into a node")
    verb.add_argument("file")
    verb.add_argument("target", metavar="NODE:PATH")
    verb.set_defaults(action=copy)

    verb = verbs.add_parser(
        "run", help="run a container on a node, on the rig's network", epilog=command
    )
    verb.add_argument("node")
    verb.add_argument("name")
    verb.add_argument("--ip", required=True, help=f"its address in {names.SUBNET}")
    verb.add_argument(
        "--engine",
        choices=engine.LISTINGS,
        default="runc",
        help="whose container it is (default: %(default)s); podman and docker run it in an image "
        "of Debian with redis and Python, and are set up the first time",
    )
    verb.add_argument("--memory", help="its memory limit, such as 256M")
    verb.set_defaults(action=run_container)
    return top


def main(argv: Sequence[str]) -> int:
    """Do what the command line says, and return the exit status."""
    # The words are split by hand: argparse would look for options of its own in the command.
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    arguments = parser().parse_args(words[:cut])
    arguments.command = words[cut + 1 :]
    try:
        arguments.action(Rig(arguments.rig), arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, BadUsage) else EXIT_FAILED
    return 0


def _list_of_nodes(rig: Rig) -> str:
    return ", ".join(f"{node.name} {node.address}" for node in rig.nodes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
