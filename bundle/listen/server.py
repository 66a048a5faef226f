"""Receives objects: verification and storage SCP."""

from __future__ import annotations

import logging
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from pydicom import dcmread
from pynetdicom import (
    AE,
    ALL_TRANSFER_SYNTAXES,
    AllStoragePresentationContexts,
    VerificationPresentationContexts,
    _config,
    evt,
)
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from bundle.listen.connection import cut
from bundle.listen.queue import QueueFullError, StudyQueue
from bundle.listen.settings import Settings

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000  # PS3.4, table B.2-1
_REJECTED, _BY_USER, _CALLING_AE_TITLE = 1, 1, 3  # PS3.8, table 9-21
_IDLE = 600.0  # s without data after which an association is closed
_STALL = 60.0  # s that a peer may stall in the middle of a handshake or a PDU, or while it is sent something
_ASSOCIATIONS = 100  # at once; a monitor that connects and leaves counts for 30 s
_PDU = 131072  # bytes; fewer round trips than with the usual 16 KiB

_log = logging.getLogger(__name__)


class Receiver:
    """Server that puts the objects it receives into a queue.

    Args:
        settings: Settings of the node.
        queue: Queue that stores the objects.
        context: TLS context; None accepts associations without TLS.
    """

    def __init__(self, settings: Settings, queue: StudyQueue, context: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._queue = queue
        self._context = context
        self._studies: WeakKeyDictionary[Association, str] = WeakKeyDictionary()  # study hash of the latest object
        self._lock = threading.Lock()
        self._open: WeakSet[Association] = WeakSet()
        self._has_ended = False

    @contextmanager
    def running(self) -> Iterator[int]:
        """Serves until the end of the ``with`` block, then cuts all connections: acknowledged objects are on disk.

        Yields:
            The port.

        Raises:
            OSError: If the address cannot be used.
        """
        _config.LOG_HANDLER_LEVEL = "none"  # its log would name patients' UIDs
        entity = AE(self._settings.ae_title)
        entity.require_called_aet = True
        entity.maximum_pdu_size = _PDU
        entity.network_timeout = _IDLE
        entity.maximum_associations = _ASSOCIATIONS
        entity.supported_contexts = VerificationPresentationContexts
        for storage in AllStoragePresentationContexts:
            entity.add_supported_context(str(storage.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        address = (self._settings.host, self._settings.port)
        try:
            server = entity.make_server(
                address,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._on_open),
                    (evt.EVT_REQUESTED, self._on_request),
                    (evt.EVT_REJECTED, self._on_rejected),
                    (evt.EVT_PDU_RECV, self._on_data),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_ABORTED, self._on_abort),
                ],
                server_class=_Server,
            )
        except OSError as error:
            raise OSError(
                f"Cannot listen on {address[0]}:{address[1]}: {error}. Choose another --host or --port."
            ) from error
        assert isinstance(server, _Server)
        server.tls = self._context
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            socketserver.BaseServer.shutdown(server)  # pynetdicom's own is for servers that it started
            server.server_close()
            with self._lock:
                self._has_ended = True
                for association in self._open:
                    cut(association)
            thread.join()

    def _on_open(self, event: evt.Event) -> None:
        with self._lock:
            self._open.add(event.assoc)
            if self._has_ended:  # closed while this connection was being made
                cut(event.assoc)

    def _on_request(self, event: evt.Event) -> None:
        requestor: Any = event.assoc.requestor
        title, address = requestor.primitive.calling_ae_title.strip(), requestor.address_info.address
        enters = False
        try:
            allowed = self._settings.allow
            enters = not allowed or any(caller.is_of(title, address) for caller in allowed)
        finally:  # also after an error, which pynetdicom would ignore
            if not enters:
                _log.warning("association from %r at %s rejected: not in --allow", title, address)
                event.assoc.acse.send_reject(_REJECTED, _BY_USER, _CALLING_AE_TITLE)
                event.assoc.kill()  # waits until the rejection is sent, then closes the connection

    def _on_rejected(self, event: evt.Event) -> None:
        requestor: Any = event.assoc.requestor
        acceptor: Any = event.assoc.acceptor
        called, address = requestor.primitive.called_ae_title.strip(), requestor.address_info.address
        reason = acceptor.primitive.reason_str
        _log.warning("association from %r at %s to %r rejected: %s", requestor.ae_title, address, called, reason)

    def _on_data(self, event: evt.Event) -> None:
        if key := self._studies.get(event.assoc):
            self._queue.hold(key)

    def _on_store(self, event: evt.Event) -> int:
        try:
            content = event.encoded_dataset()
            header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
            study_uid, instance_uid = str(header.StudyInstanceUID), str(header.file_meta.MediaStorageSOPInstanceUID)
            if not study_uid or not instance_uid:
                raise ValueError("no UID")
        except Exception as error:  # anything that pydicom may raise on bytes from elsewhere
            _log.warning("refused an object that cannot be read or lacks its UIDs (%s)", type(error).__name__)
            return CANNOT_UNDERSTAND
        try:
            self._studies[event.assoc] = self._queue.receive(study_uid, instance_uid, content)
        except QueueFullError as error:
            _log.warning("refused an object, which its sender has to send again: %s", error)
            return OUT_OF_RESOURCES
        return SUCCESS

    def _on_abort(self, event: evt.Event) -> None:
        if key := self._studies.get(event.assoc):
            self._queue.break_off(key)


class _Server(ThreadedAssociationServer):
    """Server whose TLS handshakes run in the associations' threads, so that a silent client blocks no other."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Turns a connection into an association."""
        request.settimeout(_STALL)  # else a peer that was switched off blocks forever
        if self.tls is not None:
            try:
                request = self.tls.wrap_socket(request, server_side=True)
            except OSError as error:
                reason = getattr(error, "reason", None) or type(error).__name__
                _log.warning("connection from %s refused: TLS failed: %s", client_address[0], reason)
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)
