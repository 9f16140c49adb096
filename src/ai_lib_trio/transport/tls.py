"""Whom we trust where the caller said nothing. Imports errors; certifi when a context is made.

`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured as they are at the first use; without them it is certifi's list, which
is the one that the httpx engine goes by: both engines trust the same.
"""

from __future__ import annotations

import functools
import os
import ssl

from ..errors import TransportError

__all__ = ["default_context"]


@functools.cache
def default_context() -> ssl.SSLContext:
    """The context of all engines that were given none. Reading the list takes 20 ms and more, so once.

    Raises `TransportError` (tls_refused) where `SSL_CERT_FILE` names what cannot be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        try:
            context = ssl.create_default_context(cafile=file)
        except OSError as exc:  # no file, or one of another kind: `ssl.SSLError` is an OSError
            why = "it holds no certificate" if isinstance(exc, ssl.SSLError) else exc.strerror
            raise TransportError(f"SSL_CERT_FILE names {file!r}: {why}", kind="tls_refused") from exc
    elif folder:
        context = ssl.create_default_context(capath=folder)
    else:
        import certifi

        context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
