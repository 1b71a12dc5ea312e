"""What an agent gives back, without the secrets that it was given."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.executor.masking import MASKED, Mask

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("hunter2-hunter2", "***"),
        ("Bearer hunter2-hunter2.", "Bearer ***."),
        ("hunter2-hunter", "hunter2-hunter"),
        ("", ""),
    ],
)
def test_a_secret_is_masked_wherever_it_is_in_a_text(text: str, masked: str) -> None:
    assert Mask(["hunter2-hunter2"]).text(text) == masked


def test_it_is_masked_without_the_space_around_it() -> None:
    masked = Mask([" hunter2-hunter2\n", "1234 "])

    assert masked.text("Bearer hunter2-hunter2.") == "Bearer ***."
    assert masked.value(["1234", "x1234"]) == [MASKED, "x1234"]


def test_it_is_masked_as_errors_and_addresses_quote_it() -> None:
    secret = 'it\'s\n"a key"/ü\\'

    text = f"{secret!r} {json.dumps(secret, ensure_ascii=False)} https://shop.example/?key={quote(secret, safe='')}"

    masked = Mask([secret]).text(text)
    assert 'key"' not in masked
    assert "a%20key" not in masked
    assert masked.count(MASKED) == 3


def test_one_that_any_text_may_have_by_chance_is_masked_where_it_is_all_of_it() -> None:
    mask = Mask(["1234"])

    assert mask.value({"pin": "1234", "order": "51234", "n": 1234}) == {"pin": MASKED, "order": "51234", "n": 1234}


def test_of_two_of_which_one_contains_the_other_nothing_is_left() -> None:
    assert Mask(["secret-one", "secret-one-and-more"]).text("secret-one-and-more") == MASKED


@given(JSON)
def test_without_a_secret_nothing_changes(value: object) -> None:
    assert Mask().value(value) is value
    assert Mask(["\U0010ffff" * 9]).value(value) == value


@given(JSON, st.text(min_size=6).filter(str.strip))
def test_a_secret_is_in_no_text_that_is_left(value: object, secret: str) -> None:
    around = {"in": [value, f"<{secret}>", {secret: secret}]}

    masked = Mask([secret]).value(around)

    assert [text for text in _texts(masked) if secret in text and secret not in MASKED] == []


def _texts(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for item in value.items() for part in item for text in _texts(part)]
        case list():
            return [text for item in value for text in _texts(item)]
    return []
