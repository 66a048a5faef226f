"""Sends results to a peer: storage SCU."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.status import code_to_category

from bundle.listen.connection import cut
from bundle.listen.settings import Peer

_CONNECTION, _ANSWER = 10.0, 300.0  # s
_SLOWEST = 1e5  # bytes per s; the time that a large object takes to send is added to _ANSWER
_DUPLICATE = 0x0111  # the peer has the object already: its first answer got lost
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


class PeerAwayError(Exception):
    """The peer accepts nothing now, but may later."""


class RefusedError(Exception):
    """The peer refuses an object for good: sending it again would not help."""


class Sender:
    """Sends files to a peer until each has been acknowledged once.

    Args:
        title: AE title of this node.
        peer: Node to send to.
        context: TLS context; None sends without TLS.
    """

    def __init__(self, title: str, peer: Peer, context: ssl.SSLContext | None) -> None:
        self._title, self._peer, self._context = title, peer, context
        self._taken: set[Path] = set()
        self._association: Association | None = None

    def send(self, files: Sequence[Path], stop: threading.Event) -> bool:
        """Sends the files that the peer has not acknowledged yet.

        Args:
            files: DICOM files of one study.
            stop: Event that ends the sending; set it before calling ``abort``.

        Returns:
            Whether all files were sent; False if ``stop`` came first.

        Raises:
            PeerAwayError: If the peer cannot be reached, rejects or ends the association, or is out of resources.
            RefusedError: If it refuses some of the files; the others were sent.
        """
        left = [file for file in files if file not in self._taken]
        if not left:
            return True
        association = self._associate(left, stop)
        refused = []
        try:
            for file in left:
                if stop.is_set():
                    return False
                if reason := self._store(association, file):
                    refused.append(reason)
                else:
                    self._taken.add(file)
        finally:
            if association.is_established and not stop.is_set():
                association.release()
        self._taken.difference_update(files)  # the same paths may hold other files next time
        if refused:
            raise RefusedError(
                f"{self._peer.ae_title} refuses {len(refused)} of {len(files)}: {', '.join(sorted(set(refused)))}"
            )
        return True

    def abort(self) -> None:
        """Cuts the current connection, whatever it waits for; call it from another thread, after ``stop`` is set."""
        if self._association is not None:
            cut(self._association)

    def _associate(self, files: Sequence[Path], stop: threading.Event) -> Association:
        entity = AE(self._title)
        entity.connection_timeout, entity.network_timeout = _CONNECTION, _ANSWER
        tls = None if self._context is None else (self._context, self._peer.host)
        self._association = None

        def on_open(event: evt.Event) -> None:
            self._association = event.assoc  # set before the peer answers, which it may never do
            connection: Any = event.assoc.dul.socket
            connection.socket.settimeout(_ANSWER)  # else a peer that stops reading blocks forever
            if stop.is_set():
                cut(event.assoc)

        where = f"{self._peer.ae_title} at {self._peer.host}:{self._peer.port}"
        try:
            association = entity.associate(
                self._peer.host,
                self._peer.port,
                contexts=_contexts(files),
                ae_title=self._peer.ae_title,
                tls_args=tls,
                evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
            )
        except socket.gaierror as error:
            raise PeerAwayError(f"{where} cannot be reached: {error.strerror}") from error
        if not association.is_established:
            if association.is_rejected:
                how = "rejects the association"
            elif self._association is not None:
                how = "accepts none of these kinds of objects, or no association"
            else:
                how = "cannot be reached"
            raise PeerAwayError(f"{where} {how}")
        return association

    def _store(self, association: Association, file: Path) -> str | None:
        """Sends a file; returns the reason if it is refused, else None."""
        dataset = dcmread(file)
        kind = dataset.SOPClassUID.name
        association.dimse_timeout = _ANSWER + file.stat().st_size / _SLOWEST
        try:
            status = association.send_c_store(dataset).get("Status")
        except ValueError:
            return f"{kind} is not among what it accepts"
        except RuntimeError as error:
            raise PeerAwayError(f"{self._peer.ae_title} ended the association") from error
        if status is None:
            raise PeerAwayError(f"{self._peer.ae_title} does not answer, or ended the association")
        if status in _OUT_OF_RESOURCES:
            raise PeerAwayError(f"{self._peer.ae_title} is out of resources (status 0x{status:04X})")
        if status == _DUPLICATE or code_to_category(status) in ("Success", "Warning"):
            return None
        return f"{kind} with status 0x{status:04X}"


def _contexts(files: Sequence[Path]) -> list[PresentationContext]:
    """Presentation contexts by SOP class and transfer syntax; uncompressed files may go in any uncompressed syntax."""
    headers = [dcmread(file, specific_tags=["SOPClassUID"], stop_before_pixels=True) for file in files]
    kinds = sorted({(header.SOPClassUID, header.file_meta.TransferSyntaxUID) for header in headers})
    return [
        build_context(sop_class, list(dict.fromkeys((syntax, *_UNCOMPRESSED))) if syntax in _UNCOMPRESSED else [syntax])
        for sop_class, syntax in kinds
    ]
