"""Cuts a connection from outside the thread that uses it."""

import contextlib
import socket

from pynetdicom.association import Association


def cut(association: Association) -> None:
    """Shuts the connection down, which wakes every thread that waits on the association.

    ``Association.abort`` does not do this: a thread that releases the association, or waits for its acceptance, would
    wait on for 30 seconds, and so would ``abort`` itself if the peer kept the connection open.
    """
    connection = getattr(association.dul.socket, "socket", None)
    if connection is not None:
        with contextlib.suppress(OSError):  # already closed
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # SSLSocket.shutdown would confuse its reader
