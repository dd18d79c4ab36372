"""Containers that print `goes on` as long as all is as it should be, and else what is wrong."""

from tests.rig.container import Container
from tests.rig.hosts import Hosts
from tests.rig.wait import until

GOES_ON = "goes on"


def goes_on_through_moves(hosts: Hosts, container: Container) -> None:
    """Move such a container to beta and back; it must go on after each move, and find no fault."""
    wait_for_more(container, 0)
    for _ in range(2):
        container, _ = hosts.move(container)
        wait_for_more(container, container.printed().count(GOES_ON) + 1)
        assert set(container.printed().splitlines()) == {GOES_ON}


def wait_for_more(container: Container, lines: int) -> None:
    """Wait until the container has printed GOES_ON more often than that."""
    until(lambda: container.printed().count(GOES_ON) > lines, f"{container.name} to go on")
