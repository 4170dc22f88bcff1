"""Where machines meet: said by params.yaml or the environment, and an address that others can reach."""

import socket
from typing import Any

import pytest
from making.params import starter

from xtts_finetune.core.errors import UserError
from xtts_finetune.core.meeting_place import (
    RENDEZVOUS,
    host_and_port,
    listening,
    listening_to_others,
    refuse_unknown_host,
    rendezvous_of,
)
from xtts_finetune.core.params import LaunchParams


def launch(rendezvous: str | None) -> LaunchParams:
    return starter().launch.model_copy(update={"rendezvous": rendezvous})


def test_params_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RENDEZVOUS, "gpu-2:29400")
    assert rendezvous_of(launch("gpu-1:29400")) == "gpu-1:29400"
    assert rendezvous_of(launch(None)) == "gpu-2:29400"


def test_a_variable_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RENDEZVOUS, "gpu-2")
    with pytest.raises(UserError, match=f"{RENDEZVOUS} = 'gpu-2'\n.*is no host:port"):
        rendezvous_of(launch(None))


@pytest.mark.parametrize(("endpoint", "parts"), [("gpu-1:80", ("gpu-1", 80)), ("[::1]:80", ("::1", 80))])
def test_its_parts(endpoint: str, parts: tuple[str, int]) -> None:
    assert host_and_port(endpoint) == parts


def test_a_name_that_leads_nowhere_but_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian's /etc/hosts has a machine's own."""
    real = socket.getaddrinfo

    def by_hosts(host: str, port: int, **kinds: Any) -> Any:
        return real("127.0.1.1" if host == "gpu-1" else host, port, **kinds)

    monkeypatch.setattr(socket, "getaddrinfo", by_hosts)
    with pytest.raises(UserError, match=r"is 127\.0\.1\.1 here .*, where no other machine can reach it"):
        listening_to_others("gpu-1:0")
    listening_to_others("127.0.0.1:0").close()  # written so, it is meant so


def test_a_port_that_is_taken() -> None:
    with listening("127.0.0.1:0") as taken, pytest.raises(UserError, match="cannot be listened at"):
        listening(f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(UserError, match="is not known here"):
        refuse_unknown_host("no-such-host.invalid:80")
    refuse_unknown_host("127.0.0.1:80")


def test_who_cannot_be_asked_now_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unanswered(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unanswered)
    refuse_unknown_host("gpu-1:80")
