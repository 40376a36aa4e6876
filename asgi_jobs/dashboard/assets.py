"""The style and the script: a fixed set, each under a name that changes with its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
FOREVER = "private, max-age=31536000, immutable"  # private: a shared cache would show it to the uninvited


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, and the name that it is asked by."""

    name: str
    content: bytes
    media_type: str


def load_assets() -> dict[str, Asset]:
    """Every asset, by its plain name: style.css, app.js."""
    return {path.name: _asset(path) for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Asset(f"{path.stem}.{digest}{path.suffix}", content, TYPES[path.suffix])
