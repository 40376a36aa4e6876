from pathlib import Path

import aiosmtplib

from sample_app.mail import EmailSender, MailServer


async def test_what_is_sent_over_smtp_is_in_the_inbox_newest_first(tmp_path: Path) -> None:
    async with (
        MailServer(tmp_path) as server,
        aiosmtplib.SMTP(hostname=server.host, port=server.port, local_hostname="localhost") as connection,
    ):
        sender = EmailSender(connection)
        await sender.send(name="Ana", to="ana@example.com", subject="One", text="Grüße\n.\nend")
        await sender.send(name='Zoë, "the second"', to="zoe@example.com", subject="Größe", text="Two")
        two, one = await server.inbox()

    assert (one.to, one.subject, one.text) == ("Ana <ana@example.com>", "One", "Grüße\n.\nend")
    assert one.sender == "Airfield <hello@airfield.example>"
    assert (two.to, two.subject) == ('"Zoë, \\"the second\\"" <zoe@example.com>', "Größe")
    assert "MIME-Version" in one.source


async def test_the_inbox_shows_the_latest_only(tmp_path: Path) -> None:
    async with (
        MailServer(tmp_path) as server,
        aiosmtplib.SMTP(hostname=server.host, port=server.port, local_hostname="localhost") as connection,
    ):
        for number in range(4):
            await EmailSender(connection).send(name="A", to="a@example.com", subject=f"{number}", text="")
        messages = await server.inbox(limit=2)

    assert [message.subject for message in messages] == ["3", "2"]


async def test_a_foreign_message_does_not_break_the_inbox(tmp_path: Path) -> None:
    async with (
        MailServer(tmp_path) as server,
        aiosmtplib.SMTP(hostname=server.host, port=server.port, local_hostname="localhost") as connection,
    ):
        await connection.sendmail("someone@example.com", ["a@example.com"], b"no headers at all\r\n")
        (message,) = await server.inbox()

    assert "no headers at all" in message.source
