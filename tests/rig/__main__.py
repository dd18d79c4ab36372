"""The rig from the command line: scripts/rig."""

import argparse
import os
import sys
from collections.abc import Sequence

from tests.rig import names
from tests.rig.errors import BadUsage, RigError
from tests.rig.rig import Rig

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def up(rig: Rig, arguments: argparse.Namespace) -> None:
    made = rig.up(arguments.nodes, vm=arguments.vm)
    print(f"rig {rig.name} is {'' if made else 'already '}up: {_list_of_nodes(rig)}")


def down(rig: Rig, arguments: argparse.Namespace) -> None:
    rig.down()
    print(f"rig {rig.name} is down")


def status(rig: Rig, arguments: argparse.Namespace) -> None:
    if not rig.nodes:
        print(f"rig {rig.name} is down")
        return
    print(f"rig {rig.name} is up" if rig.is_up() else f"rig {rig.name} is broken: take it down")
    for node in rig.nodes:
        if not node.is_running():
            print(f"  {node.name:8} {node.address:12} not running")
            continue
        # runc knows of no directory of containers before the first.
        containers = node.run(["runc", "list", "--quiet"], check=False).stdout.split()
        print(
            f"  {node.name:8} {node.address:12} pid {node.pid}  containers: {' '.join(containers) or 'none'}"
        )


def execute(rig: Rig, arguments: argparse.Namespace) -> None:
    """Becomes the command, so its streams, signals and status are this process's."""
    place = rig.switch if arguments.node == names.SWITCH and rig.nodes else rig.node(arguments.node)
    if not arguments.command:
        raise BadUsage("no command given: write it after --")
    command = list(place.command(arguments.command))
    os.execvp(command[0], command)  # noqa: S606


def copy(rig: Rig, arguments: argparse.Namespace) -> None:
    name, separator, path = arguments.target.partition(":")
    if not separator or not path.startswith("/"):
        raise BadUsage(f"{arguments.target!r} is no place to copy to: write NODE:/PATH")
    rig.node(name).copy(arguments.file, path)


def run_container(rig: Rig, arguments: argparse.Namespace) -> None:
    container = rig.node(arguments.node).start_container(
        arguments.name, ip=arguments.ip, argv=arguments.command, memory=arguments.memory
    )
    print(
        f"container {container.name} runs on {arguments.node} at {container.address} (log: {container.log} there)"
    )


def parser() -> argparse.ArgumentParser:
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

    verb = verbs.add_parser("status", help="list nodes and their containers")
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
    verb.add_argument("--memory", help="its memory limit, such as 256M")
    verb.set_defaults(action=run_container)
    return top


def main(argv: Sequence[str]) -> int:
    # Split by hand: argparse would look for options of its own in the command.
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
