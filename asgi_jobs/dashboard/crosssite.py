"""Whether a request that would change something comes from this site, as far as a browser says."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers

DEFAULT_PORTS = {"http": "80", "https": "443"}


def same_site(headers: Headers, origins: Iterable[str] = ()) -> bool:
    """Whether this may be acted on.

    `Sec-Fetch-Site` decides where it is sent. Browsers leave it out on plain http to another machine: there
    `Origin` must name this host and port, or one of `origins`. The scheme may differ, since TLS may end at a
    proxy. Neither header: not a browser, so there is no user whose rights could be borrowed.
    """
    sites = headers.getlist("sec-fetch-site")
    if sites:
        return all(site == "same-origin" for site in sites)
    given = headers.getlist("origin")
    if not given:
        return True
    return len(given) == 1 and _is_ours(given[0], headers.getlist("host"), origins)


def _is_ours(origin: str, hosts: list[str], origins: Iterable[str]) -> bool:
    if origin != "null" and origin.lower() in {allowed.rstrip("/").lower() for allowed in origins}:
        return True
    scheme, _, there = origin.lower().partition("://")
    if scheme not in DEFAULT_PORTS or not there or len(hosts) != 1:
        return False
    port = f":{DEFAULT_PORTS[scheme]}"
    return there.removesuffix(port) == hosts[0].lower().removesuffix(port)
