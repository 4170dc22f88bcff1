"""Where several machines meet to train together: an address and a port on the first of them."""

import os
import socket
from contextlib import ExitStack

from xtts_finetune.core.errors import Problem, UserError
from xtts_finetune.core.params import LaunchParams, as_a_meeting_place

RENDEZVOUS = "XTTS_FINETUNE_RENDEZVOUS"  # in place of launch.rendezvous, where a cluster's scheduler gives machines out
_TITLE = "machines cannot meet"


def rendezvous_of(launch: LaunchParams) -> str:
    """host:port at which machines meet.

    Raises:
        UserError: neither params.yaml nor the environment says, or the latter says something else.
    """
    if launch.rendezvous:
        return launch.rendezvous
    endpoint = os.environ.get(RENDEZVOUS)
    remedy = "give the first machine's address, as the others reach it, and a free port, as gpu-1:29400"
    if not endpoint:
        what = f"is null, and there is no {RENDEZVOUS} in the environment"
        raise UserError(_TITLE, [Problem("params.yaml: launch.rendezvous", what, remedy)])
    try:
        return as_a_meeting_place(endpoint)
    except ValueError as error:
        raise UserError(_TITLE, [Problem(f"{RENDEZVOUS} = {endpoint!r}", str(error), remedy)]) from None


def host_and_port(endpoint: str) -> tuple[str, int]:
    """Of "host:port"; an IPv6 address stands in brackets."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def refuse_unknown_host(endpoint: str) -> None:
    """Raise UserError where nobody knows the address: waiting for it would have no end."""
    try:
        socket.getaddrinfo(*host_and_port(endpoint))
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:  # who knows cannot be asked now
            return
        raise _refused(endpoint, f"is not known here: {error.strerror}", "correct it") from None


def listening_to_others(endpoint: str) -> socket.socket:
    """A socket at this address alone, which other machines can reach.

    Raises:
        UserError: it cannot listen there, or nobody else could reach it.
    """
    host, _ = host_and_port(endpoint)
    socket_ = listening(endpoint)
    address = str(socket_.getsockname()[0])
    if address.startswith("127.") and host not in (address, "localhost"):
        socket_.close()
        what = f"is {address} here (by /etc/hosts?), where no other machine can reach it"
        raise _refused(endpoint, what, "give this machine's address in numbers, as the others reach it")
    return socket_


def listening(endpoint: str) -> socket.socket:
    """A socket at this address alone; port 0: a free one.

    Raises:
        UserError: it cannot listen there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(*host_and_port(endpoint), type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            socket_ = stack.enter_context(socket.socket(family, kind))
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            socket_.bind(address)
            socket_.listen()
            stack.pop_all()  # it stays open
    except OSError as error:
        remedy = (
            "on all machines but the first: xtts-finetune join; there: give its address, as the others reach it, "
            "and a port that is free"
        )
        raise _refused(endpoint, f"cannot be listened at: {error.strerror}", remedy) from None
    return socket_


def _refused(endpoint: str, what: str, remedy: str) -> UserError:
    return UserError(_TITLE, [Problem(f"launch.rendezvous = {endpoint}", what, remedy)])
