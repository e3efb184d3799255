"""The fingerprint of a request says what its message says, whatever way it is computed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from celery_stackstate.errors import NotSerializable
from celery_stackstate.fingerprint import digest

TEXTS = st.text(max_size=8)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.decimals() | st.datetimes() | st.uuids()
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_it_is_that_of_what_a_worker_reads_from_the_message(value: Any) -> None:
    received = json.loads(kombu_json.dumps(["pay", value]))
    canonical = json.dumps(received, sort_keys=True, separators=(",", ":"))
    assert digest("pay", value, kombu_json.dumps) == hashlib.sha256(canonical.encode()).hexdigest()


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotSerializable):
        digest("pay", value, kombu_json.dumps)
