"""The move that people script themselves: `runc checkpoint`, tar over ssh, `runc restore`.

The script is as good as such a script can be: the target's bundle and network are made beforehand,
copy and restore share one SSH connection, images stay in RAM, the link is switched and announced.
"""

from pathlib import PurePosixPath

from tests.rig import Container, Node, until

IMAGES = PurePosixPath("/dev/shm/image")  # noqa: S108  (of a node)
SCRIPT = """
set -e
runc checkpoint --image-path {images} {options} {name} >&2
ip link set v-{name} down
tar -C {images} -cf - . | ssh {target} '
  set -e
  tar -C {images} -xf -
  ip link set v-{name} up
  mkdir -p $(dirname {log})
  restore="runc restore -d --bundle {bundle} --image-path {images} {options} {name}"
  (sleep infinity | $restore 2>&1 | cat >> {log}) < /dev/null > /dev/null 2>&1 &
  ip netns exec {name} arping -q -c 1 -A -I eth0 {address} >&2
'
"""


def move(container: Container, target: Node) -> Container:
    """Move a container by the script, and return it as it is on the target."""
    source = container.node
    moved = container.on(target)
    source.run(["rsync", "-a", f"{container.bundle}/", f"{target.name}:{container.bundle}/"])
    moved.plug(connected=False)
    for node in (source, target):
        node.run(["sh", "-c", f"rm -rf {IMAGES} && mkdir -m 700 {IMAGES}"])
    script = SCRIPT.format(
        images=IMAGES,
        options="--tcp-established --file-locks",
        name=container.name,
        target=target.name,
        bundle=container.bundle,
        log=container.log,
        address=container.address,
    )
    source.run(["bash", "-c", script], timeout=300)
    until(lambda: moved.status == "running", "the restored container to run")
    container.remove()
    for node in (source, target):
        node.run(["rm", "-rf", str(IMAGES)])
    return moved
