"""What is taken out of texts: whole secrets as they are in life, and nothing that tells what happened."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_stackstate.config import DEFAULT_REDACT
from celery_stackstate.payload import REDACTED, Redactor

CARD = "4242424242424242"
REDACTOR = Redactor(DEFAULT_REDACT, limit=1_000_000)


@dataclass
class Login:
    user: str
    password: Any
    tries: int = 1


QUOTED = 'it\'s "hunter2" or \\ so'
IN_JSON = json.dumps({"a": 1, "password": QUOTED, "user": "bob"})


@pytest.mark.parametrize(
    ("text", "gone", "kept"),
    [
        # quotes and backslashes
        (r'{"password": "hun\"ter2", "user": "bob"}', ["hun", "ter2"], ['"user": "bob"']),
        (IN_JSON, ["hunter2", " so"], ['{"a": 1', '"user": "bob"}']),
        (repr(json.loads(IN_JSON)), ["hunter2", " so"], ["'a': 1", "'user': 'bob'}"]),
        (json.dumps({"body": IN_JSON, "n": 1}), ["hunter2", " so"], ["bob", '"n": 1']),
        (json.dumps({"body": json.dumps({"body": IN_JSON}), "n": 1}), ["hunter2", " so"], ["bob", '"n": 1']),
        (repr({"body": IN_JSON, "n": 1}), ["hunter2", " so"], ["'n': 1"]),
        (f"rejected {Login('bob', QUOTED)}", ["hunter2", " so"], ["rejected", "user='bob'", "tries=1)"]),
        (repr(Login("bob", b"it's hunter2 \x00")), ["hunter2", "x00"], ["tries=1)"]),
        ("password = 'hun''ter2', n", ["hun", "ter2"], [", n"]),
        ("password='' and more", [], ["and more"]),
        ('password="""hunter2\nter3""", n', ["hunter2", "ter3"], [", n"]),
        ('password="hunter2\nter3", n', ["hunter2", "ter3"], [", n"]),
        ('password="hunter2 ter3\nsigned in', ["hunter2", "ter3"], ["signed in"]),
        ('{"user":"bob","password":"hunter2","n":1}', ["hunter2"], ['"user":"bob"', '"n":1']),
        ('{"token":123456,"n":1}', ["123456"], ['"n":1']),
        ('{"token":null,"n":1}', [], ['"n":1']),
        ('{"x": "my token", "b": "c"}', [], ['{"x": "my token", "b": "c"}']),
        ('{"password of the user": "hun ter2", "n": 1}', ["hun", "ter2"], ['"n": 1']),
        ('{"password": "hün \\u00fc ter2", "n": 1}', ["hün", "ter2"], ['"n": 1']),
        # brackets
        ("{'Authorization': ['Bearer hunter2'], 'n': 1}", ["Bearer", "hunter2"], ["'n': 1"]),
        ("{'token': ('a','hunter2'), 'n': 1}", ["'a'", "hunter2"], ["'n': 1"]),
        ("{'token': ['abc\\\\', ')]hunter2'], 'n': 1}", ["abc", "hunter2"], ["'n': 1"]),
        ("{'token': {'a': ['x}]', {'b': \"y]}\"}], 'c': 'hunter2'}, 'n': 1}", ["hunter2"], ["'n': 1"]),
        ("{'token': [\n 'hunter2',\n 'hunter3'],\n 'n': 1}", ["hunter2", "hunter3"], ["'n': 1"]),
        ("password=SecretStr('hun ter2'), n", ["hun", "ter2"], [", n"]),
        ("password=<Secret hunter2 of bob>, n", ["hunter2", "bob"], [", n"]),
        ("token=get('a',\n  File 'x'", ["'a'"], ["File 'x'"]),
        ("login(user, password=hunter2)\nnext", ["hunter2"], [")\nnext"]),
        ("login(token=[it's hunter2], n=1)", ["hunter2"], []),
        # bare words
        ("password: hun,ter2", ["hun", "ter2"], []),
        ("password: hun,ter2, n", ["hun", "ter2"], [", n"]),
        ("password: hun;ter2&ter3 n", ["hun", "ter2", "ter3"], [" n"]),
        ("password: hun)ter2]!x n", ["hun", "ter2", "!x"], [" n"]),
        ("password=it's-hunter2 n", ["it", "hunter2"], [" n"]),
        ("Server=db;Password=hunter2;User=bob", ["hunter2"], ["Server=db", ";User=bob"]),
        ("GET /?a=1&token=hun,ter2&x=1 200", ["hun", "ter2"], ["a=1", "&x=1 200"]),
        ("def f(password: str = 'hun ter2', n: int = 1)", ["hun", "ter2"], ["n: int = 1"]),
        ("user['password'] = 'hun ter2'", ["hun", "ter2"], []),
        ("password => 'hun ter2', n", ["hun", "ter2"], [", n"]),
        ("API key: hunter2 n", ["hunter2"], [" n"]),
        ("password:\n  - hunter2\nn", ["hunter2"], ["\nn"]),
        # headers, options and pairs
        ("Authorization: AWS4-HMAC-SHA256 Credential=hunter2, Signature=ter3 x", ["hunter2", "ter3"], [" x"]),
        ('Proxy-Authorization: Digest user="hunter2", response="ter 3"\nn', ["hunter2", "ter 3"], ["\nn"]),
        ("Cookie: a=hunter2; b=hunter3\nn", ["hunter2", "hunter3"], ["\nn"]),
        ("{'Cookie': 'a=hunter2; b=hunter3', 'n': 1}", ["hunter2", "hunter3"], ["'n': 1"]),
        ("Headers([('authorization', 'Bearer hunter2'), ('n', '1')])", ["hunter2"], ["('n', '1')"]),
        ("[(b'authorization', b'Bearer hunter2'), (b'n', b'1')]", ["hunter2"], ["(b'n', b'1')"]),
        ("fields ['token', 'name', 'n']", [], ["'name'"]),
        ("Command '['mysql', '--password', 'hun ter2', '-h']' failed", ["hun", "ter2"], ["'-h'", "failed"]),
        ("mysql --password 'hun ter2' --host db", ["hun", "ter2"], ["--host db"]),
        # values that look like names, names that lie in values
        ("password='token: x' n", ["token: x"], [" n"]),
        ("{'a': \"token: 'x\", 'password': 'hunter2'}", ["hunter2"], []),
        ('{"a": "token: \\"", "password": "hunter2"}', ["hunter2"], []),
        # by their form
        ("postgres://bob:hun@ter2@db/shop", ["hun", "ter2"], ["postgres://bob:", "@db/shop"]),
        ("postgresql://bob:hun/ter2@db/shop", ["hun", "ter2"], ["@db/shop"]),
        (
            "postgresql://admin@srv:S3cret@srv.example.com:5432/db",
            ["S3cret"],
            ["admin@srv:", "@srv.example.com:5432/db"],
        ),
        ("smtp://me@gmail.com:apppw123@smtp.gmail.com:587", ["apppw123"], ["@smtp.gmail.com:587"]),
        ("http://db:8080/a@b", [], ["http://db:8080/a@b"]),
        ("http://[2001:db8::1]:8080/users/bob@b.c", [], ["http://[2001:db8::1]:8080/users/bob@b.c"]),
        ("redis://bob:hunter2@[2001:db8::1]:6379/0", ["hunter2"], ["redis://bob:", "@[2001:db8::1]:6379/0"]),
        ("ssh://git@db:22/a@b", [], ["ssh://git@db:22/a@b"]),
        ('{"url":"http://h:8080","mail":"a@b"}', [], ['{"url":"http://h:8080","mail":"a@b"}']),
        ("-----BEGIN RSA PRIVATE KEY-----\nhun\nter2\n-----END RSA PRIVATE KEY-----\nn", ["hun", "ter2"], ["\nn"]),
    ],
)
def test_a_secret_goes_whole_and_what_is_beside_it_stays(text: str, gone: list[str], kept: list[str]) -> None:
    shown = REDACTOR.text(text)
    assert [part for part in gone if part in shown] == []
    assert [part for part in kept if part not in shown] == []
    assert not gone or REDACTED in shown
    assert REDACTOR.text(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"card {CARD} 123", f"card {REDACTED} 123"),
        (f"{CARD} 12/27", f"{REDACTED} 12/27"),
        ("3 4242 4242 4242 4242", f"3 {REDACTED}"),
        ("pay 4242-4242-4242-4242, 3782 822463 10005.", f"pay {REDACTED}, {REDACTED}."),
        ("4242\u00a04242\u00a04242\u00a04242", REDACTED),
        (f"{CARD}\n5555555555554444", f"{REDACTED}\n{REDACTED}"),
    ],
)
def test_of_a_row_of_digits_the_groups_that_are_a_card_go(text: str, shown: str) -> None:
    assert REDACTOR.text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "4242 4242 4242 4242.5",
        "0.4242424242424242",
        "42424242424242424242",
        "1795362872.090777 4242",
        "2026-11-22 12:30:45,123456",
        "4242  4242  4242  4242",
        "id-1795362872090777-1795362872090",
        "task 42424242-4242-4242-9242-a00000000000",
    ],
)
def test_other_digits_stay(text: str) -> None:
    assert REDACTOR.text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "token: (" * 2000,
        "token: (\n" * 1800,
        "token: ([{\n" * 1400,
        "token: " + "(" * 16_000,
        "token: (" + "'\"" * 8000,
        "token: (\n" * 900 + "".join("\\" * n + '"' for n in range(120)),
        'token: "' * 2000,
        "token: '\n" * 1800,
        'token: \\"\n' * 1600,
        "token: " + '\\"' * 8000,
        "token: '" + "\\" * 16_000,
        "token=" * 2700,
        "token,=" * 2300,
        "token: " + ")" * 16_000,
        "token: x" + ",;&" * 5000,
        "token = " * 2000,
        "('token', " * 1600,
        "authorization: x, a=" * 800,
        "token a" + " " * 16_000,
        "token" + "\\" * 16_000,
        "token \\" * 2300,
        "a://b:" * 2700,
        "a://b:" + "/@" * 8000,
        "-----BEGIN PRIVATE KEY-----" * 600,
        "4" * 16_000,
        "42 4242 " * 2000,
        "token: <" + "<>" * 8000,
    ],
)
def test_no_text_that_aims_at_the_scan_takes_long(text: str) -> None:
    started = time.thread_time()
    REDACTOR.text(text)
    assert time.thread_time() - started < 0.5


MARK = "hunter2"
SECRETS = st.builds(lambda *parts: MARK.join(parts), st.text(), st.text(), st.text())
NAMES = st.sampled_from(["password", "API_KEY", "x-Auth-Token", "client secret", "Authorization", "cookie"])
HIDDEN = st.recursive(
    SECRETS, lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text(), inner, min_size=1), max_leaves=5
)
BESIDE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def around(payload: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return payloads with this one inside, and others before and behind it."""
    in_list = st.builds(lambda before, inner, behind: [before, inner, behind], BESIDE, payload, BESIDE)
    in_dict = st.builds(
        lambda before, key, inner, behind: {"before": before, key: inner, "behind": behind},
        BESIDE,
        st.text(),
        payload,
        BESIDE,
    )
    return in_list | in_dict


PAYLOADS = st.recursive(st.dictionaries(NAMES, HIDDEN, min_size=1, max_size=2), around, max_leaves=3)


@given(PAYLOADS)
@settings(max_examples=300, deadline=None)
def test_a_secret_under_a_sensitive_key_is_in_no_form_of_a_payload(payload: Any) -> None:
    for shown in (
        json.dumps(REDACTOR.snapshot(payload).value),
        REDACTOR.text(repr(payload)),
        REDACTOR.text(json.dumps(payload)),
        REDACTOR.text(json.dumps(payload, ensure_ascii=False, separators=(",", ":"))),
        REDACTOR.text(json.dumps({"body": json.dumps(payload)})),
        REDACTOR.text(repr({"body": json.dumps(payload)})),
    ):
        assert MARK not in shown
