"""The rules of SPEC section 4, as a table and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.supervisor.permissions import (
    Decision,
    MalformedRules,
    Permission,
    PluginRules,
    Rule,
    Verdict,
    check,
    parse_plugins,
)

READ, HTTP = Permission.READ_FILES, Permission.HTTP_REQUESTS
COMMANDS, STORAGE = Permission.EXECUTE_COMMANDS, Permission.PLUGIN_STORAGE
FILES = [Permission(f"{verb}_files") for verb in ("read", "edit", "create", "delete", "move")]


def decide(permission: Permission, target: str, include: object = (), exclude: object = ()) -> Decision:
    entry = {"permissions": {str(permission): {"include": include, "exclude": exclude}}}
    return check(parse_plugins({"p": entry})["p"], permission, target)


def verdict(permission: Permission, target: str, include: object = (), exclude: object = ()) -> Verdict:
    return decide(permission, target, include, exclude).verdict


def allows(permission: Permission, target: str, include: object = (), exclude: object = ()) -> bool:
    return decide(permission, target, include, exclude).is_allowed


# --- what an answer is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("permission", [p for p in Permission if p is not STORAGE])
def test_without_an_entry_or_a_rule_nothing_is_configured(permission: Permission) -> None:
    target = "other:command" if permission is COMMANDS else "a.example"
    assert check(None, permission, target).verdict is Verdict.NOT_CONFIGURED
    assert check(PluginRules(), permission, target).verdict is Verdict.NOT_CONFIGURED


def test_a_rule_that_does_not_match_denies_and_says_so() -> None:
    decision = decide(READ, "b.md", ["a.md"])
    assert decision == Decision(Verdict.DENIED, "no include scope covers it")


@pytest.mark.parametrize("permission", list(Permission))
@pytest.mark.parametrize("word", ["all", "ALL", "All", " all "])
def test_all_in_any_case_matches_everything_and_exclude_wins(permission: Permission, word: str) -> None:
    target = "other:command" if permission is COMMANDS else "a.example"
    assert allows(permission, target, [word])
    assert verdict(permission, target, ["all"], [word]) is Verdict.DENIED


def test_storage_is_allowed_without_a_rule_and_with_a_rule_only_all_counts() -> None:
    assert check(None, STORAGE, "key").is_allowed
    assert check(PluginRules(), STORAGE, "key").is_allowed
    assert not allows(STORAGE, "key", ["key"])
    assert allows(STORAGE, "key", ["all"], ["key"])


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permission", FILES)
@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ("journal", "journal"),
        ("journal", "journal/a.md"),
        ("journal/", "journal/deep/er/a.md"),
        ("/journal", "journal/a.md"),
        ("./journal//daily/", "journal/daily/a.md"),
        ("journal\\daily", "journal/daily/a.md"),
        ("journal", "/journal/a.md"),
        ("journal", "./journal//a.md"),
        ("[Daily](/journal/daily/daily.md)", "journal/daily/daily.md"),
        ("[Daily](/journal/daily/daily.md)", "journal/daily/2026.md"),
        ("[Daily](/journal/daily/daily.md)", "journal/daily"),
        ("[Daily](/journal/daily/daily.md)", "journal/daily/sub/deep.md"),
        ("journal/daily/daily.md", "journal/daily/x.png"),
        ("[A (b)](/journal/x (1).txt)", "journal/x (1).txt"),
        ("[With spaces](</my notes/a b.md>)", "my notes/a b.md"),
        ("[Relative](notes/a.txt)", "notes/a.txt"),
        ("README.md", "README.md"),
    ],
)
def test_a_file_scope_matches_its_path_and_what_is_below(permission: Permission, scope: str, target: str) -> None:
    assert allows(permission, target, scope)
    assert verdict(permission, target, "all", scope) is Verdict.DENIED


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ("journal/daily", "journal/secret.md"),  # the reference opens the parent
        ("journal/daily", "journal"),
        ("journal", "journal2/a.md"),
        ("journal/a", "journal/ab"),
        ("README.md", "other.md"),
        ("README.md", ""),
        ("journal/daily/daily.txt", "journal/daily/x.md"),
        ("journal", "Journal/a.md"),
        ("notes%20x", "notes x/a.md"),
        ("", "a.md"),
        ("/", "a.md"),
        ("./", ""),
        ("..", "a.md"),
        ("journal/../secret", "secret/a.md"),
        ("journal/..", "journal/a.md"),
        ("[T](/journal", "journal/a.md"),
        ("[T](</journal)", "journal/a.md"),
        ("[a](/x) and [b](/y)", "y"),
        ("journal\0", "journal/a.md"),
    ],
)
def test_an_include_grants_nothing_else(scope: str, target: str) -> None:
    assert verdict(READ, target, [scope]) is Verdict.DENIED


@pytest.mark.parametrize(
    "scope",
    ["../x", "a/../b", "", "/", "[T](/x", "[a](/x) and [b](/y)", '[T](/x "title")', "a\0b", "%2e%2e/x"],
)
def test_an_exclude_that_cannot_be_understood_closes_everything_and_is_named(scope: str) -> None:
    decision = decide(READ, "unrelated.md", ["all"], [scope])
    assert decision.verdict is Verdict.DENIED
    assert repr(scope) in decision.reason


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ("private", "PRIVATE/a.md"),
        ("Straße", "STRASSE/a.md"),
        ("caf\u00e9", "cafe\u0301/a.md"),
        ("[T](/my%20notes)", "my notes/a.md"),
        ("[T](/a\\(b\\).txt)", "a(b).txt"),
        ("private ", "private /a.md"),
        ("\nprivate", "\nprivate/a.md"),
        ("[a](b)", "[a](b)"),
    ],
)
def test_an_exclude_also_closes_other_spellings_of_the_same_name(scope: str, target: str) -> None:
    assert verdict(READ, target, ["all"], [scope]) is Verdict.DENIED


@pytest.mark.parametrize("target", ["../x", "journal/../x", "..", "a/..", "a\0b", "journal\\..\\x"])
def test_a_target_that_climbs_is_denied_even_with_all(target: str) -> None:
    assert verdict(READ, target, ["all"]) is Verdict.DENIED


# --- hosts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ("example.org", "example.org"),
        ("example.org", "api.example.org"),
        ("Example.ORG.", "API.example.org"),
        ("example.org", "example.org."),
        ("localhost", "localhost"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "[::1]"),
        ("[::1]", "0:0:0:0:0:0:0:1"),
        ("10.0.0.1", "::ffff:10.0.0.1"),
    ],
)
def test_a_domain_matches_itself_and_its_subdomains_and_an_address_itself(scope: str, target: str) -> None:
    assert allows(HTTP, target, scope)
    assert verdict(HTTP, target, "all", scope) is Verdict.DENIED


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ("example.org", "badexample.org"),
        ("example.org", "example.org.evil.net"),
        ("api.example.org", "example.org"),
        ("0.0.1", "10.0.0.1"),
        ("1", "127.1"),
        ("10.0.0.1", "10.0.0.11"),
        ("*.example.org", "api.example.org"),
        ("https://example.org", "example.org"),
        ("example.org:443", "example.org"),
        ("", "example.org"),
        (".", "example.org"),
        ("org\n", "example.org\n"),
    ],
)
def test_a_domain_matches_no_other_host(scope: str, target: str) -> None:
    assert not allows(HTTP, target, scope)


@pytest.mark.parametrize("scope", ["*.evil.org", "https://evil.org", "evil.org:80", "b\u00fccher.de", "", "127.1"])
def test_an_exclude_that_is_not_a_domain_closes_everything(scope: str) -> None:
    decision = decide(HTTP, "good.org", ["all"], [scope])
    assert decision.verdict is Verdict.DENIED
    assert repr(scope) in decision.reason


@pytest.mark.parametrize(
    "target", ["", "a b", "user@host", "http://x", "b\u00fccher.de", "127.1", "0x7f.0x1", "a..b", "x" * 300]
)
def test_a_target_that_is_not_a_plain_host_is_denied_even_with_all(target: str) -> None:
    assert verdict(HTTP, target, ["all"]) is Verdict.DENIED


# --- commands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["diaryx.daily:today", "diaryx.daily", "diaryx.daily:*"])
def test_a_command_scope_names_the_command_or_the_plugin(scope: str) -> None:
    assert allows(COMMANDS, "diaryx.daily:today", scope)
    assert not allows(COMMANDS, "diaryx.daily2:today", scope)
    assert not allows(COMMANDS, "diaryx:today", scope)


def test_an_exclude_closes_the_command_that_it_names_letter_by_letter() -> None:
    assert verdict(COMMANDS, "a.b:run ", "all", "a.b:run ") is Verdict.DENIED


def test_a_command_scope_does_not_cover_other_commands() -> None:
    assert not allows(COMMANDS, "p:delete", "p:del")
    assert not allows(COMMANDS, "p:today", "p:delete")
    assert allows(COMMANDS, "p:today", "p", "p:delete")
    assert not allows(COMMANDS, "p:delete", "p", "p:delete")


@pytest.mark.parametrize("target", ["", "p", "p:", ":c", ":"])
def test_a_command_target_that_is_not_one_is_denied_even_with_all(target: str) -> None:
    assert verdict(COMMANDS, target, ["all"]) is Verdict.DENIED


# --- parsing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "null", "~", {}])
def test_no_plugins_mapping_means_no_entries(value: object) -> None:
    assert parse_plugins(value) == {}


@pytest.mark.parametrize("value", ["text", ["a"], 7])
def test_a_plugins_value_that_is_not_a_mapping_is_an_error(value: object) -> None:
    with pytest.raises(MalformedRules, match="plugins must be a mapping"):
        parse_plugins(value)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"permissions": {"read_file": {"include": "all"}}}, "did you mean 'read_files'"),
        ({"permissions": {"read_files": {"includes": "all"}}}, "did you mean 'include'"),
        ({"permission": {"read_files": {}}}, "did you mean 'permissions'"),
        ({"permissions": {"read_files": "all"}}, "plugins.p.permissions.read_files must be a mapping"),
        ({"permissions": ["read_files"]}, "plugins.p.permissions must be a mapping"),
        ({"permissions": {"read_files": {"include": [["a"]]}}}, "read_files.include must be a list of text"),
        ({"permissions": {"plugin_storage": {"quota_bytes": "1MB"}}}, "quota_bytes must be a number"),
        ({"permissions": {"plugin_storage": {"quota_bytes": -1}}}, "quota_bytes must be a number"),
        ({"permissions": {"plugin_storage": {"quota_bytes": True}}}, "quota_bytes must be a number"),
        ({"download": ["x"]}, "plugins.p.download must be text"),
        ("text", "plugins.p must be a mapping"),
    ],
)
def test_a_bad_entry_is_denied_with_the_reason_and_costs_no_other_plugin_anything(entry: object, words: str) -> None:
    plugins = parse_plugins({"p": entry, "q": {"permissions": {"read_files": {"include": "all"}}}})
    for permission in Permission:
        decision = check(plugins["p"], permission, "a")
        assert decision.verdict is Verdict.DENIED
        assert words in decision.reason
    assert check(plugins["q"], READ, "a").is_allowed


def test_an_empty_rule_is_no_rule() -> None:
    plugins = parse_plugins({"p": {"permissions": {"read_files": "", "edit_files": None}}, "q": ""})
    assert check(plugins["p"], READ, "a").verdict is Verdict.NOT_CONFIGURED
    assert check(plugins["q"], READ, "a").verdict is Verdict.NOT_CONFIGURED


def test_quota_download_and_config_are_kept() -> None:
    entry = {
        "download": "https://x",
        "config": {"a": "1"},
        "enabled": "true",
        "permissions": {"plugin_storage": {"include": ["all"], "quota_bytes": "2048"}},
    }
    rules = parse_plugins({"p": entry})["p"]
    assert (rules.download, rules.config) == ("https://x", {"a": "1"})
    assert rules.rules[STORAGE] == Rule(("all",), (), 2048)


# --- properties -------------------------------------------------------------------------------------------

names = st.text(alphabet="abAB.~ \u00e9\\/%2e-", max_size=6)
scopes = st.one_of(names, names.map(lambda name: f"[T](/{name})"), st.text(max_size=8), st.just("all"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(["permissions", "read_files", "include", "exclude", "quota_bytes", "p"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(list(Permission)), st.text(max_size=12))
def test_nothing_that_yaml_can_say_raises_anything_but_a_named_error(
    value: object, permission: Permission, target: str
) -> None:
    try:
        plugins = parse_plugins(value)
    except MalformedRules:
        return
    for rules in plugins.values():
        check(rules, permission, target)


@given(
    st.sampled_from(list(Permission)),
    st.lists(scopes, max_size=4),
    st.lists(scopes, max_size=4),
    st.text(max_size=12) | names,
)
def test_more_excludes_never_open_and_more_includes_never_close(
    permission: Permission, include: list[str], exclude: list[str], target: str
) -> None:
    if allows(permission, target, include, exclude):
        assert allows(permission, target, include, exclude[1:])
        assert allows(permission, target, [*include, "x"], exclude)
        assert not allows(permission, target, include, [*exclude, "all"])
        assert not allows(permission, target, [], exclude)


parts = st.lists(st.sampled_from(["a", "b", "A", "a.md", "..", ".", "", "ab"]), max_size=4)


@given(st.lists(parts, max_size=3), parts)
def test_a_target_outside_all_include_scopes_is_never_allowed(include: list[list[str]], target: list[str]) -> None:
    """Against a second, slower statement of the rule."""
    clean = [part for part in target if part not in ("", ".")]
    covered = False
    for scope in include:
        path = [part for part in scope if part not in ("", ".")]
        if not path or ".." in path:
            continue
        roots = [path, *([path[:-1]] if path[-1].endswith(".md") and len(path) > 1 else [])]
        covered = covered or any(clean[: len(root)] == root for root in roots)
    expected = covered and ".." not in clean
    assert allows(READ, "/".join(target), ["/".join(scope) for scope in include]) == expected


@given(names, names)
def test_what_an_include_opens_the_same_exclude_closes(scope: str, target: str) -> None:
    if allows(READ, target, [scope]):
        assert not allows(READ, target, ["all"], [scope])
