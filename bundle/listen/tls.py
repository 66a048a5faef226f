"""TLS contexts of a node, for receiving and for sending."""

from __future__ import annotations

import ssl

from bundle.listen.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS context for associations to the node; None for plain ones.

    With ``tls_ca`` set, senders need a certificate from one of its authorities.
    """
    if settings.tls_cert is None:
        return None
    context = _checked(settings, ssl.Purpose.CLIENT_AUTH)
    if settings.tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS context for sending results, which presents the node's certificate if asked; None for plain associations."""
    return _checked(settings, ssl.Purpose.SERVER_AUTH) if settings.send_tls else None


def _checked(settings: Settings, purpose: ssl.Purpose) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(purpose, cafile=settings.tls_ca)
        if settings.tls_cert is not None:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError too
        files = ", ".join(str(path) for path in (settings.tls_cert, settings.tls_key, settings.tls_ca) if path)
        raise ValueError(f"TLS with {files}: {error}. Give PEM files, the key without a password.") from error
    return context
