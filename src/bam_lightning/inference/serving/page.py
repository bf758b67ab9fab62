"""The page to try a model in a browser: one file, served with a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

FILE = Path(__file__).with_name("page.html")


class Page:
    """The file and its headers.

    The policy names the page's own style and script by their hashes: a browser runs nothing else, inline or from
    elsewhere, and the page talks to this server only.
    """

    def __init__(self) -> None:
        text = FILE.read_text(encoding="utf-8")
        self.content = text.encode()
        self.headers = {"content-security-policy": policy(text), "referrer-policy": "no-referrer"}


def policy(text: str) -> str:
    """Return the Content-Security-Policy of a page with one style and one script inside."""
    parts = [
        "default-src 'none'",
        f"style-src {_hash(text, 'style')}",
        f"script-src {_hash(text, 'script')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(parts)


def _hash(text: str, tag: str) -> str:
    (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
