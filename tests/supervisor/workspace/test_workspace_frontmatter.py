"""Front matter: strings, lists and mappings, or one typed error with a line."""

from __future__ import annotations

import io
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import ServiceError
from isoplug.supervisor.workspace import FrontmatterError, frontmatter
from isoplug.supervisor.workspace.frontmatter import HEAD_BYTES, parse, read, split

LIMIT = 256 * 1024


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"", {}),
        (b"# Title\n---\na: 1\n---\n", {}),
        (b"----\na: 1\n---\n", {}),
        (b" ---\na: 1\n---\n", {}),
        (b"---\n---\n", {}),
        (b"---\n# only a comment\n---\n", {}),
        (b"---\na: 1\n---", {"a": "1"}),
        (b"---\r\na: 1\r\nb: x\r\n---\r\nbody", {"a": "1", "b": "x"}),
        (b"\xef\xbb\xbf---\na: 1\n---\n", {"a": "1"}),
        (
            b"---\nd: 2026-01-01\nn: null\nt: yes\ne:\n---\n",
            {"d": "2026-01-01", "n": "null", "t": "yes", "e": ""},
        ),
        (b"---\nl: [a, {b: c}]\nm:\n  - x\n---\n", {"l": ["a", {"b": "c"}], "m": ["x"]}),
        (b"---\nt: !!python/object:os.system x\n---\n", {"t": "x"}),
        (b"---\n<<: {a: 1}\n---\n", {"<<": {"a": "1"}}),
        (b"---\ntext: |\n  ---\n  a\n---\n", {"text": "---\na\n"}),
        ("---\n\u00e9: \u4e2d\n---\n".encode(), {"\u00e9": "\u4e2d"}),
    ],
)
def test_front_matter_is_read_as_strings(data: bytes, values: dict[str, object]) -> None:
    assert parse(data) == values
    assert read(io.BytesIO(data)) == values


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"---\na: 1\n", 1, "never closed"),
        (b"---\na: 1\n --- \n--- \n", 1, "never closed"),
        (b"---\nx: 1\na: [\n---\n", None, "malformed"),
        (b"---\na: 1\na: 2\n---\n", 3, "'a' stands twice"),
        (b"---\na: 1\n'a': 2\n---\n", 3, "'a' stands twice"),
        (b"---\np: {x: 1, x: 2}\n---\n", 2, "'x' stands twice"),
        (b"---\na: &x 1\nb: *x\n---\n", 2, "anchors"),
        (b"---\na: *x\n---\n", 2, "anchors"),
        (b"---\n[a, b]: c\n---\n", 2, "a key is a list"),
        (b"---\nc: [[T](/x)]\n---\n", 2, "malformed"),
        (b"---\n- a\n---\n", 2, "not a mapping"),
        (b"---\ntext\n---\n", 2, "not a mapping"),
        (b"---\na: 1\n--- b\n---\n", 3, "malformed"),
        (b"---\na: 1\n...\n--- {b: 2}\n---\n", None, "malformed"),
        (b"---\na: \xff\n---\n", 2, "UTF-8"),
        (b"---\na: 1\nb: \x07\n---\n", 3, "malformed"),
        (b"---\na: 1\n\tb: 2\n---\n", 3, "malformed"),
    ],
)
def test_a_failure_names_its_line(data: bytes, line: int | None, words: str) -> None:
    with pytest.raises(FrontmatterError, match=words) as caught:
        parse(data)
    assert isinstance(caught.value, ServiceError)
    if line is not None:
        assert caught.value.line == line
        assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize(
    "brackets", [b"[" * 65 + b"]" * 65, b"[" * 200_000, b"{a: " * 50_000, b"- " * 100_000, b"? " * 100_000]
)
def test_deep_nesting_is_refused_quickly(brackets: bytes) -> None:
    started = time.thread_time()
    with pytest.raises(FrontmatterError):
        parse(b"---\na:\n  " + brackets + b"\n---\n")
    assert time.thread_time() - started < 2


def test_sixty_levels_are_fine() -> None:
    assert parse(b"---\na: " + b"[" * 60 + b"]" * 60 + b"\n---\n")


def test_a_bomb_of_aliases_is_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
    )
    with pytest.raises(FrontmatterError, match="anchors"):
        parse(f"---\n{bomb}---\n".encode())


def test_the_limit_is_256_kib_of_front_matter_and_the_body_does_not_count() -> None:
    def document(size: int) -> bytes:
        return b"---\na: " + b"x" * (size - 4) + b"\n---\n" + b"body" * 100_000

    assert len(str(parse(document(LIMIT))["a"])) == LIMIT - 4
    for data in (document(LIMIT + 1), document(LIMIT * 3)):
        with pytest.raises(FrontmatterError, match="longer than"):
            parse(data)
        with pytest.raises(FrontmatterError, match="longer than"):
            read(io.BytesIO(data))


@pytest.mark.parametrize("opening", [b"---\n", b"---\r\n", b"\xef\xbb\xbf---\r\n"])
@pytest.mark.parametrize(
    "tail", [b"---", b"---\n", b"---\r", b"---\r\n", b"---x\n---\n", b"---      x\n---\n", b"-\n---\n"]
)
def test_the_head_of_a_file_says_the_same_as_the_whole(opening: bytes, tail: bytes) -> None:
    """Checkers read the head, the guard sees the whole: a difference would be a way round the guard."""
    for size in range(LIMIT - 6, LIMIT + 8):
        data = opening + b"a: " + b"x" * (size - 4) + b"\n" + tail + b"more" * 50
        assert outcome(data) == outcome(data[:HEAD_BYTES])


def outcome(data: bytes) -> object:
    try:
        return parse(data)
    except FrontmatterError:
        return "error"


@given(
    st.binary(max_size=200) | st.text(alphabet="---\n\r a:[]{}&*!|>'\"#%?,<x\u2028\x85", max_size=80).map(str.encode)
)
def test_any_bytes_give_values_or_a_front_matter_error(data: bytes) -> None:
    for candidate in (data, b"---\n" + data + b"\n---\n"):
        try:
            values = parse(candidate)
        except FrontmatterError as error:
            str(error).encode()
            continue
        assert isinstance(values, dict)


plain_values = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\u00e9 :", max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), plain_values, min_size=1, max_size=4),
    st.booleans(),
)
def test_what_a_yaml_writer_wrote_is_what_is_read(values: dict[str, object], in_flow: bool) -> None:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    text = yaml.dump(values, Dumper=Plain, allow_unicode=True, default_flow_style=in_flow, default_style='"')
    assert parse(f"---\n{text}---\n".encode()) == values


def test_the_slow_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontmatter, "_Loader", yaml.BaseLoader)
    assert parse(b"---\na: [b, {c: d}]\n---\n") == {"a": ["b", {"c": "d"}]}
    for bad in (b"a: 1\na: 2", b"a: &x 1", b"a: [", b"a: \x07", b"[" * 100):
        with pytest.raises(FrontmatterError):
            parse(b"---\n" + bad + b"\n---\n")


def test_split_gives_the_yaml_text() -> None:
    assert split(b"---\na: 1\n---\nbody") == b"a: 1\n"
    assert split(b"body") is None
