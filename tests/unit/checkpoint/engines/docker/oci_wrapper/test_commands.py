"""Tests of checkpoint/engines/docker/oci_wrapper.py: which commands go to runc, and the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.engines.docker import oci_wrapper
from checkpoint.engines.docker.oci_wrapper import (
    command_of,
    main,
    mode_of,
    option,
    socket_of,
    start,
)
from checkpoint.host.listener import Listener
from tests.unit.checkpoint.engines.docker.oci_wrapper.agents import GLOBAL, Agent


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], ""),
        (["--version"], ""),
        (["create", "box"], "create"),
        ([*GLOBAL, "start", "box"], "start"),
        (["--root", "create", "kill", "box", "9"], "kill"),
        (["--root=/x", "--debug", "--systemd-cgroup", "delete", "--force", "box"], "delete"),
        (["--criu", "/usr/sbin/criu", "--rootless", "false", "state", "box"], "state"),
        (["--log"], ""),
    ],
)
def test_the_command_is_the_first_word_that_belongs_to_no_option(
    words: list[str], command: str
) -> None:
    assert command_of(words) == command


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], ""),
        (["create", "box"], ""),
        (["create", "--bundle", "/b", "box"], "/b"),
        (["create", "--bundle=/b=c", "box"], "/b=c"),
        (["create", "--bundle=", "box"], ""),
        (["create", "--bundles", "/b", "box"], ""),
        (["create", "--bundled=/c", "box"], ""),
    ],
)
def test_the_value_of_an_option_is_found_in_both_spellings(words: list[str], value: str) -> None:
    assert option(words, "--bundle") == value


def test_a_start_that_succeeds_says_nothing(agent: Callable[[object], Agent]) -> None:
    told = agent({"failure": ""})
    start(["start", "box"], str(told.path))
    assert json.loads(told.told[0]) == {"command": "start"}


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    ("answer", "said"),
    [({"failure": "no way"}, "no way"), (None, "the move that was to bring it has ended")],
)
def test_a_start_that_fails_is_told(
    tmp_path: Path, agent: Callable[[object], Agent], log: bool, answer: object, said: str
) -> None:
    told = agent(answer)
    given = ["--log", str(tmp_path / "log")] if log else []
    with pytest.raises(SystemExit, match=f"migrate: {said}"):
        start([*given, "start", "box"], str(told.path))
    if log:
        assert json.loads((tmp_path / "log").read_text()) == {"level": "error", "msg": said}


@pytest.mark.parametrize("given", [[], ["start", "box"], ["create", "box"], ["state", "box"]])
def test_any_other_command_goes_to_runc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(oci_wrapper, "DIRECTORY", str(tmp_path))
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execvp", lambda file, argv: called.append((file, argv)))
    monkeypatch.setattr("sys.argv", ["migrate-oci-runtime", *given])
    main()
    assert called == [("runc", ["runc", *given])]


def test_create_and_start_of_an_arriving_container_do_not_go_to_runc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: Callable[[object], Agent]
) -> None:
    monkeypatch.setattr(oci_wrapper, "DIRECTORY", str(tmp_path))
    told = agent(None)
    called: list[tuple[list[str], str]] = []
    for command in ("create", "start"):
        monkeypatch.setattr(oci_wrapper, command, lambda words, path: called.append((words, path)))
        monkeypatch.setattr("sys.argv", ["migrate-oci-runtime", command, "box"])
        main()
    path = str(told.path)
    assert called == [(["create", "box"], path), (["start", "box"], path)]


@pytest.mark.parametrize("name", ["", "../box", "none", "plain", "a\0b"])
def test_a_name_without_an_agent_has_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(oci_wrapper, "DIRECTORY", str(tmp_path / "sockets"))
    (tmp_path / "sockets").mkdir()
    (tmp_path / "sockets/plain").touch()
    listener = Listener(tmp_path / "box", lambda peer: peer.close(), "agent")
    try:
        assert socket_of(name) == ""
        assert mode_of(str(tmp_path / "sockets/a\0b")) == 0
    finally:
        listener.close()


def test_an_option_at_the_end_has_no_value() -> None:
    assert oci_wrapper.option(["create", "--bundle"], "--bundle") == ""
    assert command_of(["--root"]) == ""
