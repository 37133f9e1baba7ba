"""Messages come through lines whole or not at all, and a question gets its own answer."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as some

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")

import smp.packet
from served_pty import served

from diagline.errors import FlashError
from firmware_bridge.link import HEADER, INSPECT, Link, Messages, NoAnswerError, Patience, RefusedError

TEXT = some.binary(max_size=40).filter(lambda data: not {0x06, 0x04, 0x0A} & set(data))


def taken(messages: Messages, data: bytes) -> list[bytes]:
    """The messages in what arrives."""
    found = (messages.take(line + b"\n") for line in data.split(b"\n")[:-1])
    return [one for one in found if one is not None]


@given(some.lists(some.tuples(some.binary(min_size=1, max_size=600), TEXT), max_size=4))
def test_messages_are_found_among_text(sent: list[tuple[bytes, bytes]]) -> None:
    data = b"".join(text + b"".join(smp.packet.encode(message)) + text + b"\n" for message, text in sent)
    assert taken(Messages(), data) == [message for message, _ in sent]


def test_a_message_with_any_byte_hurt_is_dropped_and_the_next_one_comes_through() -> None:
    message, after = bytes(range(200)), b"the next one"
    lines, next_lines = (b"".join(smp.packet.encode(one)) for one in (message, after))
    for at in range(len(lines) - 1):
        for hurt in (b"", bytes([lines[at] ^ 1]), bytes([lines[at] ^ 0x80]), lines[at : at + 1] * 2):
            found = taken(Messages(), lines[:at] + hurt + lines[at + 1 :] + next_lines)
            assert found in ([after], [message, after]), (at, hurt)


def reply(request: bytes, body: object, **other: int) -> bytes:
    """Lines of a reply to a whole request."""
    decoder = smp.packet.decode()
    next(decoder)
    try:
        for line in request.splitlines(keepends=True):
            decoder.send(line)
    except StopIteration as whole:
        op, _, _, group, number, command = HEADER.unpack_from(whole.value)
        named = {"op": op + 1, "group": group, "number": number, "command": command} | other
        data = body if isinstance(body, bytes) else cbor2.dumps(body)
        length = other.get("length", len(data))
        head = HEADER.pack(named["op"], 0, length, named["group"], named["number"], named["command"])
        return b"".join(smp.packet.encode(head + data))
    raise AssertionError(request)


def test_replies_to_other_questions_and_what_is_no_reply_are_passed_over() -> None:
    def answer(request: bytes) -> bytes:
        whole = reply(request, {"a": 1})
        others = [reply(request, {"a": 2}, **{name: 77}) for name in ("group", "number", "command")]
        echo, longer = reply(request, {"a": 3}, op=2), reply(request, {"a": 4}, length=40)
        wrong = [reply(request, data) for data in (b"\xff", b"", b"\x81\x01", b"\x9f" * 3000)]
        return b"m-ready\r\n" + b"".join([*others, echo, longer, *wrong]) + whole + whole

    with served(answer) as port, Link(port) as link:
        assert [link.ask("a", INSPECT, 0) for _ in range(3)] == [{"a": 1}] * 3


def test_a_request_goes_out_again_unchanged_until_it_is_answered() -> None:
    seen: list[bytes] = []

    def answer(request: bytes) -> bytes:
        seen.append(request)
        return reply(request, {}) if len(seen) == 4 else b""

    with served(answer) as port, Link(port, patience=Patience(0.05, 50)) as link:
        assert link.ask("a", INSPECT, 1, {"pic": 1}) == {}
    assert len(seen) >= 4 and set(seen) == {seen[0]}


@pytest.mark.parametrize(
    ("body", "why", "code"),
    [
        ({"err": {"group": 1, "rc": 30}}, "upload refused: larger than a slot", 30),
        ({"err": {"group": 1, "rc": 3}}, r"error 3 of group 1 \(no image\)", 3),
        ({"err": {"group": 99, "rc": 5}}, r"error 5 of group 99 \(enoent\)", 5),
        ({"rc": 2}, r"error 2 of the message \(enomem\)", 2),
        ({"rc": "no"}, r"error -1 of the message \(unknown\)", -1),
    ],
)
def test_a_refusal_is_named(body: object, why: str, code: int) -> None:
    with served(lambda request: reply(request, body)) as port, Link(port) as link:
        with pytest.raises(RefusedError, match=why) as caught:
            link.ask("upload", 1, 1, {})
        assert caught.value.code == code


def test_no_error_in_a_reply_of_rc_0() -> None:
    with served(lambda request: reply(request, {"rc": 0, "off": 3})) as port, Link(port) as link:
        assert link.ask("upload", 1, 1, {})["off"] == 3


def test_text_without_a_newline_is_no_answer() -> None:
    with (
        served(lambda request: b"x" * 1000) as port,
        Link(port, patience=Patience(0.1, 2)) as link,
        pytest.raises(NoAnswerError),
    ):
        link.ask("a", INSPECT, 0)


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/none", "no such serial port"), ("/etc/hostname", "no such serial port")]
)
def test_what_is_no_port_is_named(path: str, why: str) -> None:
    with pytest.raises(FlashError, match=f"{path}: {why}; expected one of: diagline device list"):
        Link(path)


def test_a_speed_that_is_none_is_named() -> None:
    with served(lambda request: b"") as port, pytest.raises(FlashError, match="at -5 baud"):
        Link(port, -5)
