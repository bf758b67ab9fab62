"""Whether W&B's server can be used, found out without importing its client."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlparse

PROBE_SECONDS = 3.0


def online() -> bool:
    """Return whether to log to W&B's server: a key is stored, and the server answers within ``PROBE_SECONDS``.

    W&B's client waits 91 s for a server that cannot be reached.
    """
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return False
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    address = urlparse(base)
    if not os.environ.get("WANDB_API_KEY") and not _has_stored_key(address.hostname or ""):
        return False
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _has_stored_key(host: str) -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
