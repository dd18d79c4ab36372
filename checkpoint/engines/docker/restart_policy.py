"""The restart policy of a container of docker's, which is taken from it and given back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from checkpoint.bounded import ContainerName, Count
from checkpoint.engines.docker import api
from checkpoint.engines.made import ObjectId
from checkpoint.errors import EngineRefused
from checkpoint.schema import Pattern
from checkpoint.undo import Made


class SuspendedRestart(Made):
    """The restart policy of a container of docker's, which is about to be taken from it.

    docker keeps the policy on disk. `retries` counts for the policy "on-failure".
    """

    id: ObjectId
    name: ContainerName
    policy: Annotated[str, Pattern("[a-z-]{0,40}")]
    retries: Count

    @classmethod
    def of(cls, container_id: str, name: str, policy: Mapping[str, Any]) -> SuspendedRestart:
        """Return what gives a container the restart policy that docker's API describes so."""
        retries = policy.get("MaximumRetryCount") or 0
        return cls(id=container_id, name=name, policy=policy["Name"], retries=retries)

    def __str__(self) -> str:
        return f"docker's restart policy of {self.name!r}"

    def remove(self) -> None:
        """Give the policy back. Does nothing if docker has the container no longer."""
        policy = {"Name": self.policy, "MaximumRetryCount": self.retries}
        try:
            if api.call("GET", f"/containers/{self.id}/json") is not None:
                api.call("POST", f"/containers/{self.id}/update", {"RestartPolicy": policy})
        except EngineRefused as error:
            cure = f"docker update --restart {policy_text(policy)} {self.name}"
            raise EngineRefused(
                f"docker will not restart {self.name!r} until '{cure}' ({error})"
            ) from error


def policy_text(policy: Mapping[str, Any]) -> str:
    """Return a restart policy of the API in the form that `docker update --restart` takes."""
    limit = policy.get("MaximumRetryCount")
    return f"{policy['Name']}:{limit}" if limit else str(policy["Name"])
