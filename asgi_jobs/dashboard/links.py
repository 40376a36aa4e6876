"""Addresses below the mount, from `root_path` alone: not from Host, not from an outer router's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Links:
    """Makes addresses that stay on this site: paths that begin with one slash, whatever the prefix says."""

    base: str

    @classmethod
    def below(cls, scope: Mapping[str, Any]) -> Links:
        """Links for the mount that the request came through."""
        # A prefix may come from a proxy's header: "//evil" would name another site, CR and LF end the header.
        prefix = quote(scope.get("root_path", "").strip("/"), safe="/:@!$&'()*+,;=~", errors="replace")
        return cls(f"/{prefix}" if prefix else "")

    def to(self, path: str, pairs: Pairs = (), anchor: str = "") -> str:
        """An address: path below the mount, query, anchor."""
        kept = [(name, value) for name, value in pairs if value]
        query = "?" + urlencode(kept, errors="replace") if kept else ""
        return f"{self.base}{path}{query}{'#' + anchor if anchor else ''}"

    @property
    def overview(self) -> str:
        return self.to("/")

    def jobs(self, **filters: str) -> str:
        return self.to("/jobs", filters.items())

    def job(self, id: str, action: str = "") -> str:
        return self.to(f"/jobs/{quote(id, safe='', errors='replace')}{'/' + action if action else ''}")

    def asset(self, name: str) -> str:
        return self.to(f"/assets/{name}")
