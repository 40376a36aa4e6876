"""A visitor without scripts who leaves nothing out: every link, every asset, every form and button."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx
from starlette.routing import Match

from asgi_jobs import Jobs
from asgi_jobs.dashboard.routes import Dashboard
from tests.servers.process import JSON

ROUTES = Dashboard(Jobs(authorize="local")).routes()
OF_A_JOB = {"id", "back"}
Pairs = tuple[tuple[str, str], ...]


@dataclass
class Form:
    """A form, with all that is in it or says that it belongs to it."""

    method: str
    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    choices: dict[str, list[str]] = field(default_factory=dict)  # of each select its options, the chosen one first
    buttons: list[str] = field(default_factory=list)  # where each button sends the form, "" for the form's own action

    def sendings(self) -> Iterator[tuple[str, Pairs]]:
        """Where what can be sent: by each button, and once with each other option."""
        chosen = {name: values[0] for name, values in self.choices.items()}
        for button in self.buttons:
            yield button or self.action, (*self.fields, *chosen.items())
        for name, values in self.choices.items():
            for value in values[1:]:
                yield self.action, (*self.fields, *{**chosen, name: value}.items())


class Document(HTMLParser):
    """What a page leads to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.forms: dict[str, Form] = {}
        self._inside = ""  # the form that is open
        self._select = ""
        self._loose: list[tuple[str, str, dict[str, str]]] = []  # what names its form, which may come later
        self.feed(page)
        for owner, tag, given in self._loose:
            self._belongs(self.forms[owner], tag, given)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = given.get("id") or f"form {len(self.forms)}"
            self.forms[self._inside] = Form(given.get("method", "get"), given["action"])
        elif tag == "a":
            self.links.append(given["href"])
        elif tag in {"link", "script", "img"}:
            self.assets.append(given.get("href") or given["src"])
        elif tag in {"input", "button", "select", "option"}:
            if tag == "select":
                self._select = given.get("name", "")
            owner = given.get("form") or self._inside
            if owner:
                self._loose.append((owner, tag, given | {"select": self._select}))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = ""

    @staticmethod
    def _belongs(form: Form, tag: str, given: dict[str, str]) -> None:
        if tag == "button":
            form.buttons.append(given.get("formaction", ""))
        elif tag == "input" and "name" in given:
            form.fields.append((given["name"], given.get("value", "")))
        elif tag == "option" and given["select"]:
            options = form.choices.setdefault(given["select"], [])
            options.insert(0 if "selected" in given else len(options), given.get("value", ""))


class Crawler:
    """Goes through a page from its first address on, and holds every address to be below the mount.

    Args:
        client: of the outermost address, with the cookie that opens the page.
        mount: the path of the page as the browser sees it.
        home: the one address besides that the page may lead to.
        origin: what a browser sends along with a form.
    """

    def __init__(self, client: httpx.Client, mount: str, home: str, origin: str) -> None:
        self.client = client
        self.mount = mount
        self.home = home
        self.origin = origin
        self.seen: set[str] = set()  # addresses
        self.sent: set[tuple[str, Pairs]] = set()  # forms, those that differ only in their job once
        self.walked: set[tuple[str, str]] = set()  # routes by method and path

    def walk(self) -> set[tuple[str, str]]:
        """Visit all; gives the routes that were led to."""
        forms = self._visit_all([f"{self.mount}/"])
        while forms:
            place, form = forms.pop(0)
            for action, pairs in form.sendings():
                forms += self._visit_all(self._send(self._below(place, action), pairs, form.method))
        return self.walked

    def _visit_all(self, addresses: list[str]) -> list[tuple[str, Form]]:
        """Follow the links from these addresses; gives every form on the way and the page that it stands on."""
        forms = []
        while addresses:
            address = addresses.pop(0)
            if address not in self.seen:
                self.seen.add(address)
                document = Document(self._page(address))
                for asset in document.assets:
                    self._fetch(address, asset)
                links = [self._below(address, link) for link in document.links if link not in {self.home, "#main"}]
                assert self.home in document.links, address
                addresses += links
                forms += [(address, form) for form in document.forms.values()]
        return forms

    def _page(self, address: str) -> str:
        self._note("GET", address)
        answer = self.client.get(address)
        assert answer.status_code == 200, f"{address}: {answer.status_code} {answer.headers}"
        assert answer.headers["content-type"] == "text/html; charset=utf-8", address
        assert self.client.get(address, headers=JSON).json() is not None, address
        return answer.text

    def _fetch(self, place: str, asset: str) -> None:
        if asset.startswith("data:"):
            return
        address = self._below(place, asset)
        if address not in self.seen:
            self.seen.add(address)
            self._note("GET", address)
            answer = self.client.get(address)
            assert answer.status_code == 200, f"{address}: {answer.status_code}"
            kind = {"css": "text/css", "js": "text/javascript"}[address.rpartition(".")[2]]
            assert answer.headers["content-type"].startswith(kind), address

    def _send(self, address: str, pairs: Pairs, method: str) -> list[str]:
        """Send a form; gives the address that it leads to, unless the same has been sent before."""
        if method == "get":
            # One choice at a time: with every choice on the page that the last one gave there would be no end.
            return [str(httpx.URL(address, params=list(pairs)))] if sum(bool(value) for _, value in pairs) <= 1 else []
        kind = self._note("POST", address), tuple(pair for pair in dict(pairs).items() if pair[0] not in OF_A_JOB)
        if kind in self.sent:
            return []
        self.sent.add(kind)
        names = dict.fromkeys(name for name, _ in pairs)
        data = {name: [value for given, value in pairs if given == name] for name in names}
        answer = self.client.post(address, data=data, headers={"origin": self.origin})
        assert answer.status_code == 303, f"{address} {pairs}: {answer.status_code} {answer.text}"
        after = self._below(address, answer.headers["location"])
        assert 'id="flash"' in self._page(after), after  # it says what was done
        return [after]

    def _below(self, place: str, given: str) -> str:
        """The address that a browser would ask for; it has to stay on the site and below the mount."""
        parts = urlsplit(given)
        assert (parts.scheme, parts.netloc) == ("", ""), f"{given!r} on {place} leads to another site"
        address = urljoin(place, given).partition("#")[0]
        assert address.startswith(f"{self.mount}/"), f"{given!r} on {place} leads out of {self.mount}"
        return address

    def _note(self, method: str, address: str) -> str:
        """Write down which route an address is of; gives the route's path."""
        path = urlsplit(address).path.removeprefix(self.mount)
        scope = {"type": "http", "method": method, "path": path}
        found = [route.path for route in ROUTES if route.matches(scope)[0] is Match.FULL]
        assert found, f"{method} {address} is no address of the page"
        self.walked.add((method, found[0]))
        return found[0]
