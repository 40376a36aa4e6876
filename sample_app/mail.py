"""E-mail over real SMTP: the service that sends it, and a small server that takes it in."""

import asyncio
import email
import email.policy
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import aiosmtpd.smtp
import aiosmtplib
from dishka import Provider, Scope, provide

from sample_app.settings import settings

FROM = Address("Airfield", "hello", "airfield.example")
logging.getLogger("mail.log").setLevel(logging.WARNING)  # else each line that the small SMTP server hears


class EmailSender:
    """Sends over one connection, which lives as long as the job's attempt."""

    def __init__(self, connection: aiosmtplib.SMTP) -> None:
        self._connection = connection

    async def send(self, *, name: str, to: str, subject: str, text: str) -> None:
        message = EmailMessage()
        message["From"] = FROM
        message["To"] = Address(name, addr_spec=to)
        message["Subject"] = subject
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = make_msgid(domain=FROM.domain)
        message.set_content(text)
        await self._connection.send_message(message)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it arrived."""

    sender: str
    to: str
    subject: str
    text: str
    at: datetime
    source: str

    @classmethod
    def read(cls, path: Path) -> "Received":
        content = path.read_bytes()
        message = email.message_from_bytes(content, policy=email.policy.default)
        body = message.get_body(("plain",))
        return cls(
            sender=message.get("From", ""),
            to=message.get("To", ""),
            subject=message.get("Subject", "(no subject)"),
            text=body.get_content().replace("\r\n", "\n").strip() if body else "",
            at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            source=content.decode("utf-8", "replace"),
        )


class MailServer:
    """An SMTP server on a free port of this machine. Each message it takes becomes a file."""

    host = "127.0.0.1"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("The mail server has not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: aiosmtpd.smtp.SMTP(self, hostname="airfield.example", enable_SMTPUTF8=True, loop=loop),
            self.host,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def handle_DATA(self, server: Any, session: Any, envelope: aiosmtpd.smtp.Envelope) -> str:  # noqa: N802 (aiosmtpd's name)
        content = envelope.content
        assert isinstance(content, bytes)
        await asyncio.to_thread(self._keep, content)
        return "250 Message accepted for delivery"

    def _keep(self, content: bytes) -> None:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid4().hex[:8]}"
        part = self._directory / f"{name}.part"  # so that nobody reads half a message
        part.write_bytes(content)
        part.replace(self._directory / f"{name}.eml")

    async def inbox(self, limit: int = 50) -> list[Received]:
        """The latest messages, the newest first."""
        return await asyncio.to_thread(self._read, limit)

    def _read(self, limit: int) -> list[Received]:
        newest = sorted(self._directory.glob("*.eml"), reverse=True)[:limit]
        return [Received.read(path) for path in newest]


mail_server = MailServer(settings.mail)


class MailProvider(Provider):
    @provide(scope=Scope.APP)
    async def server(self) -> AsyncIterator[MailServer]:
        """One for each process that sends, opened with the first message. All put what they take into one directory."""
        async with mail_server:
            yield mail_server

    @provide(scope=Scope.REQUEST)
    async def sender(self, server: MailServer) -> AsyncIterator[EmailSender]:
        async with aiosmtplib.SMTP(
            hostname=server.host, port=server.port, local_hostname="localhost", timeout=10
        ) as connection:
            yield EmailSender(connection)
