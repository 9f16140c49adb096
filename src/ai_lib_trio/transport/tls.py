"""Whom we trust where the caller said nothing. Imports the standard library; certifi when a context is made.

`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured as they are at the first use; without them it is certifi's list, which
is the one that the httpx engine goes by: both engines trust the same.
"""

from __future__ import annotations

import functools
import os
import ssl

__all__ = ["default_context"]


@functools.cache
def default_context() -> ssl.SSLContext:
    """The context of all engines that were given none. Reading the list takes 20 ms and more, so once."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        context = ssl.create_default_context(cafile=file)
    elif folder:
        context = ssl.create_default_context(capath=folder)
    else:
        import certifi

        context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
