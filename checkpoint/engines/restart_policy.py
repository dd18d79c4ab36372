"""The restart policy of a container, which is taken from it for a migration and given back.

An engine that starts containers again by such a policy would start the container that was killed on
the source, at once or when the host starts the next time (podman-restart.service; docker's daemon).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

from checkpoint.bounded import BootId, ContainerName, Count
from checkpoint.engines.base import Container
from checkpoint.engines.made import STORES, EngineName, ObjectId
from checkpoint.engines.shape import Maybe, Shape
from checkpoint.errors import CheckpointError, EngineRefused
from checkpoint.host import proc
from checkpoint.host.processes import ENDED, state_of
from checkpoint.schema import Pattern
from checkpoint.undo import Made, Undo

#: A restart policy as both engines describe it, in the container's HostConfig.
RESTART_POLICY: Shape = {"Name": str, "MaximumRetryCount": Maybe(int)}
NONE = ("", "no")
#: How long an engine may take to notice that a container's init has ended.
NOTICE_S, LOOK_AGAIN_S = 5.0, 0.05


class SuspendedRestart(Made):
    """The restart policy of an engine's container, which is about to be taken from it.

    The engine keeps the policy on disk. `retries` counts for the policy "on-failure". `boot_id` is
    that of the host's boot in which the policy was taken.
    """

    engine: EngineName
    id: ObjectId
    name: ContainerName
    policy: Annotated[str, Pattern("[a-z-]{0,40}")]
    retries: Count
    boot_id: BootId

    def __str__(self) -> str:
        return f"{self.engine}'s restart policy of {self.name!r}"

    def remove(self) -> None:
        """Give the policy back, and start the container if the engine would have started it.

        The engine would have when the container ended by itself, and when the host was started
        again. Does nothing if the engine has the container no longer.
        """
        store, text = STORES[self.engine], self._text()
        try:
            if store.pid_of(self.id) is None:
                return
            store.set_restart_policy(self.id, text)
        except EngineRefused as error:
            cure = f"{self.engine} update --restart {text} {self.name}"
            raise EngineRefused(
                f"{self.engine} will not restart {self.name!r} until '{cure}' ({error})"
            ) from error
        if self._would_have_started():
            store.start_container(self.id)

    def _text(self) -> str:
        """Return the policy in the form that `docker update --restart` takes, and podman's."""
        return f"{self.policy}:{self.retries}" if self.retries else self.policy

    def _would_have_started(self) -> bool:
        store = STORES[self.engine]
        try:
            if self.boot_id != proc.boot_id():
                return store.starts_at_boot(self.id, self.policy)
            self._await_notice()
            code = store.own_end(self.id)
        except CheckpointError:
            return False  # the policy is given back, and it is not known how the container ended
        return code is not None and (self.policy != "on-failure" or code != 0)

    def _await_notice(self) -> None:
        """Wait until the engine has noticed that the container's init has ended, if it has."""
        until_s = time.monotonic() + NOTICE_S
        while (pid := STORES[self.engine].pid_of(self.id)) and state_of(pid) in ENDED:
            if time.monotonic() > until_s:
                return
            time.sleep(LOOK_AGAIN_S)


def restarts(container: Container) -> bool:
    """Return whether the container's engine starts it again in some cases."""
    policy = container.engine_state.get("HostConfig", {}).get("RestartPolicy", {})
    return policy.get("Name", "") not in NONE


def suspend(engine: str, container: Container, undo: Undo) -> None:
    """Take a container's restart policy from it; `undo` gives it back. Raises EngineRefused."""
    policy = container.engine_state["HostConfig"]["RestartPolicy"]
    if (suspended := _suspended(engine, container.id, container.name, policy)) is not None:
        undo.made(suspended)
        STORES[engine].set_restart_policy(container.id, "no")


def give_later(
    engine: str, container_id: str, name: str, policy: Mapping[str, Any], undo: Undo
) -> None:
    """Enter in `undo` that a container without a policy gets `policy` when it is settled."""
    if (suspended := _suspended(engine, container_id, name, policy)) is not None:
        undo.passing(suspended)


def _suspended(
    engine: str, container_id: str, name: str, policy: Mapping[str, Any]
) -> SuspendedRestart | None:
    """Return what gives the container `policy`; None if nothing is restarted by that policy."""
    if policy["Name"] in NONE:
        return None
    retries = policy.get("MaximumRetryCount") or 0
    return SuspendedRestart(
        engine=engine,
        id=container_id,
        name=name,
        policy=policy["Name"],
        retries=retries,
        boot_id=proc.boot_id(),
    )
