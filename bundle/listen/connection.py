"""The end of a connection from outside the thread that uses it."""

import contextlib
import socket

from pynetdicom.association import Association


def cut(association: Association) -> None:
    """Ends the connection, and with it every wait of the association's threads.

    ``Association.abort`` is not for this: where another thread releases the association, or waits for its acceptance,
    that one goes on waiting for 30 seconds, and so does ``abort`` where the peer leaves the connection open.
    """
    connection = getattr(association.dul.socket, "socket", None)
    if connection is not None:
        with contextlib.suppress(OSError):  # ended already
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # that of an SSLSocket would confuse its reader
