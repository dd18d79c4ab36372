"""The move people script themselves: `runc checkpoint`, tar over ssh, `runc restore`.

Written as well as such a script can be: the target's bundle and network are made beforehand, copy and
restore share one SSH connection, images stay in RAM, the link is switched and announced.
"""

from dataclasses import replace
from pathlib import PurePosixPath

from tests.rig import Container, Node, until

IMAGES = PurePosixPath("/dev/shm/image")  # noqa: S108  (of a node)
SCRIPT = """
set -e
runc checkpoint --image-path {images} --tcp-established --file-locks {name} >&2
ip link set v-{name} down
tar -C {images} -cf - . | ssh {target} '
  set -e
  tar -C {images} -xf -
  ip link set v-{name} up
  mkdir -p $(dirname {log})
  restore="runc restore -d --bundle {bundle} --image-path {images} --tcp-established --file-locks {name}"
  (sleep infinity | $restore 2>&1 | cat >> {log}) < /dev/null > /dev/null 2>&1 &
  ip netns exec {name} arping -q -c 1 -A -I eth0 {address} >&2
'
"""


def move(container: Container, target: Node) -> Container:
    """Move a container by script; the container there."""
    source = container.node
    there = replace(container, node=target)
    source.run(["rsync", "-a", f"{container.bundle}/", f"{target.name}:{container.bundle}/"])
    there.plug(connected=False)
    for node in (source, target):
        node.run(["sh", "-c", f"rm -rf {IMAGES} && mkdir -m 700 {IMAGES}"])
    script = SCRIPT.format(
        images=IMAGES,
        name=container.name,
        target=target.name,
        bundle=container.bundle,
        log=container.log,
        address=container.address,
    )
    source.run(["bash", "-c", script], timeout=300)
    until(lambda: there.status == "running", "the restored container to run")
    container.remove()
    for node in (source, target):
        node.run(["rm", "-rf", str(IMAGES)])
    return there
