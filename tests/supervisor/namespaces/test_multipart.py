"""Reading multipart bodies of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.namespaces.multipart import boundary_of, parse_multipart

BOUNDARY = "mark"


def body_of(*parts: tuple[str, bytes], with_length: bool = True) -> bytes:
    """As the reference server writes it: key and content of each part."""
    written = b""
    for key, content in parts:
        escaped = key.replace('"', '\\"')
        written += f'--{BOUNDARY}\r\nContent-Disposition: attachment; filename="{escaped}"\r\n'.encode()
        written += f"Content-Length: {len(content)}\r\n".encode() if with_length else b""
        written += b"Content-Type: text/markdown\r\n\r\n" + content + b"\r\n"
    return written + f"--{BOUNDARY}--\r\n".encode()


def read(body: bytes, max_parts: int = 100) -> list[tuple[str | None, bytes]]:
    return [(part.file_name, part.content) for part in parse_multipart(body, BOUNDARY, max_parts)]


CONTENTS = [
    b"",
    b"# Hello",
    b"\x00\xff\r\n\r\n\n\r",
    b"\r\n",
    b"--mark",
    b"\r\n--markup",
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x--",
]


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("content", CONTENTS)
def test_contents_come_back_byte_by_byte(content: bytes, with_length: bool) -> None:
    parts = [("a", content), ("b", b"between"), ("c", content)]
    assert read(body_of(*parts, with_length=with_length)) == parts


def test_a_part_that_says_its_length_may_hold_the_boundary() -> None:
    parts = [("a", b'\r\n--mark\r\nContent-Disposition: attachment; filename="b"\r\n\r\nforged\r\n--mark--')]
    assert read(body_of(*parts)) == parts


@given(st.lists(st.tuples(st.sampled_from(["k", "x/y.md"]), st.binary(max_size=40)), max_size=4))
def test_any_contents_come_back_when_the_parts_say_their_lengths(parts: list[tuple[str, bytes]]) -> None:
    assert read(body_of(*parts)) == parts


@pytest.mark.parametrize(
    "key", ["files/ü ☃.md", 'say "hi".md', "a;b=c.md", "a\\b", "a\\", " spaced ", "100%25", "it's", "*"]
)
def test_keys_come_back_as_they_were_written(key: str) -> None:
    assert read(body_of((key, b"x"))) == [(key, b"x")]


def test_types_that_a_mail_reader_would_take_apart_stay_whole() -> None:
    inner = b"Content-Type: text/plain\r\n\r\n--mark\r\n"
    for mime_type in (b"message/rfc822", b"multipart/mixed; boundary=mark"):
        body = body_of(("a", inner)).replace(b"text/markdown", mime_type)
        assert read(body) == [("a", inner)]


def test_what_stands_before_the_first_part_and_after_the_last_is_not_read() -> None:
    assert read(b"preamble\r\n" + body_of(("a", b"x")) + b"--mark\r\nepilogue") == [("a", b"x")]
    assert read(b"--mark--\r\n") == []


def test_a_boundary_may_be_followed_by_white_space() -> None:
    assert read(b"--mark \t\r\n\r\nx\r\n--mark--") == [(None, b"x")]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename=a.md; size=3", "a.md"),
        ('size="3;"; FileName = "a;b"', "a;b"),
        ("filename=old; filename*=UTF-8'en'%e2%82%ac%20b", "€ b"),
        ("name=a", None),
        ("filename*=idna''x%ff", None),
        ("filename*=undefined''x", None),
        ("filename*=\0''x; filename=a", "a"),
        (f"filename*{'9' * 5000}=x", None),
    ],
)
def test_the_file_name_is_read_as_servers_write_it_and_no_spelling_raises(parameters: str, name: str | None) -> None:
    head = f"Content-Disposition: attachment;\r\n {parameters}\r\n\r\n"
    assert read(b"--mark\r\n" + head.encode() + b"x\r\n--mark--") == [(name, b"x")]


def test_what_is_made_to_be_slow_to_read_is_not() -> None:
    """Each took minutes; this test fails by the time limit of all tests."""
    with pytest.raises(ServiceError, match="cut off"):
        read(b"--mark\r\n\r\n" + b"\r\n--markX" * 800_000)
    quoted = b'--mark\r\nContent-Disposition: a; filename="' + b";" * 16_000 + b"\r\n\r\n\r\n"
    assert len(read(quoted * 500 + b"--mark--", 500)) == 500
    with pytest.raises(ServiceError, match="more than 32 headers"):
        read(b"--mark\r\n" + b"a: b\r\n" * 33 + b"\r\nx\r\n--mark--")


WHOLE = body_of(("a", b"first"), ("b", b"second"), with_length=False)


@pytest.mark.parametrize("with_length", [True, False])
def test_a_body_that_is_cut_off_anywhere_is_refused(with_length: bool) -> None:
    whole = body_of(("a", b"first"), ("b", b"second"), with_length=with_length)
    for length in range(len(whole) - len("--\r\n")):
        with pytest.raises(ServiceError, match="multipart answer is broken"):
            read(whole[:length])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"--mark",
        b"--markx\r\n\r\n\r\n--markx--",
        WHOLE.replace(b"Content-Type", b"Content-Length: 3\r\nContent-Type"),
        WHOLE.replace(b"Content-Type", b"Content-Length: 99999999999999999999\r\nContent-Type"),
        WHOLE.replace(b"Content-Type", b"Content-Length: -1\r\nContent-Type"),
        WHOLE.replace(b"Content-Type", "Content-Length: ٣\r\nContent-Type".encode()),
        b"--mark\r\nX: " + b"y" * 20_000 + b"\r\n\r\nx\r\n--mark--",
    ],
)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    with pytest.raises(ServiceError, match="multipart answer is broken"):
        read(body)


@given(st.binary(max_size=60))
def test_garbage_is_refused_in_a_typed_way(garbage: bytes) -> None:
    for body in (garbage, b"--mark\r\n" + garbage, WHOLE[:40] + garbage + WHOLE[40:]):
        try:
            read(body)
        except ServiceError as error:
            assert "multipart" in str(error)  # noqa: PT017  it need not be raised


def test_more_parts_than_asked_for_are_refused() -> None:
    body = body_of(*[("k", b"")] * 3)
    assert len(read(body, 3)) == 3
    with pytest.raises(ServiceError, match="more than 2 parts"):
        read(body, 2)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/mixed; boundary=mark", "mark"),
        ('Multipart/Mixed; charset=x; boundary="a b"', "a b"),
        ("multipart/mixed", None),
        ("application/json; boundary=mark", None),
        ("", None),
        ("multipart/mixed; boundary*=idna''x%ff", None),
        (f"multipart/mixed; boundary*{'9' * 5000}=x", None),
    ],
)
def test_the_boundary_is_that_of_a_multipart_type(content_type: str, boundary: str | None) -> None:
    assert boundary_of(content_type) == boundary
