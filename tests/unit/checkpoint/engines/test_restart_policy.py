"""Tests of checkpoint/engines/restart_policy.py: a restart policy, taken and given back."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import made, restart_policy
from checkpoint.engines.restart_policy import SuspendedRestart
from checkpoint.errors import EngineRefused
from checkpoint.host import proc
from checkpoint.undo import Made, Undo, read

ID = "1f" * 32
OTHER_BOOT = "0" * 36


class Store:
    """A store with one container, and a record of what was done to it.

    `pids` are the answers to who its init is; the last one stays.
    """

    def __init__(self) -> None:
        self.pids: list[int | None] = [0]
        self.ended: int | None = None
        self.refuses = False
        self.done: list[str] = []

    def pid_of(self, container_id: str) -> int | None:
        assert container_id == ID
        return self.pids.pop(0) if len(self.pids) > 1 else self.pids[0]

    def set_restart_policy(self, container_id: str, policy: str) -> None:
        assert container_id == ID
        if self.refuses:
            raise EngineRefused("no answer")
        self.done.append(policy)

    def own_end(self, container_id: str) -> int | None:
        assert container_id == ID
        if self.refuses:
            raise EngineRefused("no answer")
        return self.ended

    def starts_at_boot(self, container_id: str, policy: str) -> bool:
        assert container_id == ID
        return policy == "always"

    def start_container(self, container_id: str) -> None:
        assert container_id == ID
        self.done.append("start")


@pytest.fixture(params=["podman", "docker"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    found = Store()
    monkeypatch.setattr(made, "STORES", {})  # nobody asks by another way
    monkeypatch.setattr(restart_policy, "STORES", {request.param: found})
    return found


@pytest.fixture
def engine(request: pytest.FixtureRequest, store: Store) -> str:
    return str(request.node.callspec.params["store"])


def container(name: str, retries: int | None = None) -> Any:
    policy = {"Name": name, "MaximumRetryCount": retries}
    return SimpleNamespace(
        id=ID, name="web", engine_state={"HostConfig": {"RestartPolicy": policy}}
    )


@pytest.mark.parametrize(
    ("name", "retries", "text"),
    [
        ("always", 0, "always"),
        ("unless-stopped", None, "unless-stopped"),
        ("on-failure", 3, "on-failure:3"),
        ("on-failure", 0, "on-failure"),
    ],
)
def test_a_policy_is_taken_and_given_back(
    store: Store, engine: str, name: str, retries: int | None, text: str
) -> None:
    things: list[Made] = []
    with Undo(lambda thing, passing: things.append(thing)) as undo:
        restart_policy.suspend(engine, container(name, retries), undo)
        assert store.done == ["no"]
    assert store.done == ["no", text]
    [thing] = things
    assert read(json.loads(json.dumps(thing.plain()))) == thing
    assert str(thing) == f"{engine}'s restart policy of 'web'"


@pytest.mark.parametrize("name", ["", "no"])
def test_what_is_restarted_in_no_case_is_left_alone(store: Store, engine: str, name: str) -> None:
    with Undo() as undo:
        restart_policy.suspend(engine, container(name), undo)
        restart_policy.give_later(engine, ID, "web", {"Name": name}, undo)
    assert store.done == []
    assert not restart_policy.restarts(container(name))
    assert restart_policy.restarts(container("always"))
    assert not restart_policy.restarts(SimpleNamespace(engine_state={}))  # type: ignore[arg-type]


def test_a_policy_that_is_given_later_is_given_when_it_is_settled(
    store: Store, engine: str
) -> None:
    with Undo() as undo:
        restart_policy.give_later(engine, ID, "web", {"Name": "always"}, undo)
    assert store.done == []  # it was undone
    undo = Undo()
    restart_policy.give_later(engine, ID, "web", {"Name": "always"}, undo)
    undo.settle()
    assert store.done == ["always"]


@pytest.mark.parametrize(
    ("name", "code", "starts"),
    [
        ("always", 0, True),
        ("always", 137, True),
        ("always", None, False),
        ("unless-stopped", 0, True),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("on-failure", None, False),
    ],
)
def test_a_container_that_ended_by_itself_is_started_as_its_policy_wants(
    store: Store, engine: str, name: str, code: int | None, starts: bool
) -> None:
    store.ended = code
    with Undo() as undo:
        restart_policy.suspend(engine, container(name), undo)
    assert store.done == ["no", name, *(["start"] if starts else [])]


@pytest.mark.parametrize(
    ("name", "starts"), [("always", True), ("unless-stopped", False), ("on-failure", False)]
)
def test_after_a_start_of_the_host_it_is_started_as_its_engine_does_then(
    store: Store, engine: str, name: str, starts: bool
) -> None:
    store.ended = 1  # the engine says by itself what it does at a start of the host
    thing = SuspendedRestart(
        engine=engine, id=ID, name="web", policy=name, retries=0, boot_id=OTHER_BOOT
    )
    thing.remove()
    assert store.done == [name, *(["start"] if starts else [])]


def test_an_engine_that_has_not_noticed_the_end_yet_is_waited_for(
    store: Store, engine: str
) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        store.pids, store.ended = [process.pid, process.pid, process.pid, 0], 1
        with Undo() as undo:
            restart_policy.suspend(engine, container("always"), undo)
    assert store.done == ["no", "always", "start"]
    assert store.pids == [0]


def test_the_wait_for_that_has_an_end(
    store: Store, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart_policy, "NOTICE_S", 0.1)
    with subprocess.Popen(["true"]) as process:
        process.wait()
        store.pids = [process.pid]
        with Undo() as undo:
            restart_policy.suspend(engine, container("always"), undo)
    assert store.done == ["no", "always"]


def test_a_container_that_is_gone_needs_no_policy(store: Store, engine: str) -> None:
    store.pids, store.ended = [None], 1
    with Undo() as undo:
        restart_policy.suspend(engine, container("always"), undo)
    assert store.done == ["no"]


def test_a_policy_that_cannot_be_given_back_is_told_with_its_cure(
    store: Store, engine: str
) -> None:
    undo = Undo()
    restart_policy.suspend(engine, container("on-failure", 3), undo)
    store.refuses = True
    with pytest.raises(EngineRefused, match=f"{engine} update --restart on-failure:3 web.*answer"):
        undo.close()


def test_an_engine_that_does_not_say_how_it_ended_has_its_policy_back(
    store: Store, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undo = Undo()
    restart_policy.suspend(engine, container("always"), undo)
    given = store.set_restart_policy

    def then_silent(container_id: str, policy: str) -> None:
        given(container_id, policy)
        store.refuses = True

    monkeypatch.setattr(store, "set_restart_policy", then_silent)
    undo.close()
    assert store.done == ["no", "always"]


def test_the_boot_is_that_in_which_the_policy_was_taken(store: Store, engine: str) -> None:
    things: list[Any] = []
    undo = Undo(lambda thing, _: things.append(thing))
    restart_policy.suspend(engine, container("always"), undo)
    assert [thing.boot_id for thing in things] == [proc.boot_id()]
