"""A service tells whoever started it that it is ready: sd_notify, the protocol of systemd.

In a service's ``__main__``, once every subscription is open::

    notify_ready()

`planmesh up` waits for it; so does systemd, for a unit with ``Type=notify``. Where nobody listens, nothing happens.
Source: sd_notify(3), https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import os
import socket
from typing import Final

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"


def notify_ready() -> None:
    """Say that this process does what it is for, now. Never fails, never waits."""
    notify("READY=1")


def notify(state: str) -> None:
    """Send one state, such as ``STOPPING=1``, with this process's id."""
    path = os.environ.get(NOTIFY_SOCKET)
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(f"{state}\nMAINPID={os.getpid()}\n".encode(), address)
    except OSError:
        pass  # whoever started this process has gone, or does not read: it will look for itself
