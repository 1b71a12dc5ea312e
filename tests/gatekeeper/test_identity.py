import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planmesh.directory import Directory
from planmesh.errors import Unusable
from planmesh.gatekeeper.identity import (
    Door,
    Form,
    Keys,
    Link,
    Proxy,
    Untrusted,
    Visitor,
    command_id,
    read_keys,
)
from planmesh.schemas.subjects import Address

HERE = Address("erp", "pay")
OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32
SECRET = "s" * 32
NOW = 1_000_000.0
PEOPLE = Directory.model_validate({"people": {"ada": {"email": "ada@example.org"}, "bob": {}}})

tokens = st.text(st.sampled_from("abcXYZ019_-"), min_size=1, max_size=20)
links = st.builds(Link, st.builds(Address, tokens, tokens), tokens, tokens, st.integers(0, 2_000_000))


def door() -> Door:
    proxy = Proxy("X-User", "X-Proof", SECRET)
    return Door(directory=PEOPLE, keys=Keys([NEW]), proxy=proxy, pages_url="https://plans.example.org/p")


def doubt(action: Any, *arguments: Any) -> str:
    with pytest.raises(Untrusted) as caught:
        action(*arguments)
    return caught.value.doubt


@given(link=links, gate=links, now=st.integers(0, 2_000_000))
def test_a_link_is_good_for_its_gate_and_until_it_expires(link: Link, gate: Link, now: int) -> None:
    keys = Keys([NEW])
    token = keys.sign_link(link)

    if (link.address, link.step) != (gate.address, gate.step):
        assert doubt(keys.read_link, token, gate.address, gate.step, now) == "other_gate"
    if now < link.expires:
        assert keys.read_link(token, link.address, link.step, now) == link
    else:
        assert doubt(keys.read_link, token, link.address, link.step, now) == "expired"


@given(link=links, at=st.integers(0, 10_000), char=st.sampled_from("Aa0_-.é\0"), text=st.text(max_size=80))
def test_whatever_was_changed_is_forged(link: Link, at: int, char: str, text: str) -> None:
    keys = Keys([NEW])
    token = keys.sign_link(link)
    at %= len(token)
    changed = token[:at] + char + token[at + 1 :]

    for forged in (changed, text, token[:-1], Keys([OTHER]).sign_link(link)):
        # The last character of base64 has bits that say nothing.
        if forged == token or (forged[:-1] == token[:-1] and len(forged) == len(token)):
            continue
        assert doubt(keys.read_link, forged, link.address, link.step, 0) == "forged"


def test_a_key_is_believed_until_it_is_taken_out() -> None:
    link = Link(HERE, "ok", "ada", int(NOW) + 1)
    by_old = Keys([OLD]).sign_link(link)

    assert Keys([NEW, OLD]).read_link(by_old, HERE, "ok", NOW) == link
    assert Keys([NEW]).read_link(Keys([NEW, OLD]).sign_link(link), HERE, "ok", NOW) == link
    assert doubt(Keys([NEW]).read_link, by_old, HERE, "ok", NOW) == "forged"


def test_the_token_of_a_link_is_none_of_a_form_and_the_other_way_round() -> None:
    keys = Keys([NEW])
    link = keys.sign_link(Link(HERE, "ok", "ada", int(NOW) + 1))
    form = keys.sign_form(Form(HERE, "ok", 1, "d", "ada", "link", int(NOW) + 1, "n"))

    assert doubt(keys.read_form, link, HERE, "ok", Visitor("ada", "link"), NOW) == "other_form"
    assert doubt(keys.read_link, form, HERE, "ok", NOW) == "forged"


@pytest.mark.parametrize(
    ("gate", "visitor", "now", "expected"),
    [
        ("other", Visitor("ada", "link"), NOW, "other_gate"),
        ("ok", Visitor("bob", "link"), NOW, "other_person"),
        ("ok", Visitor("ada", "login"), NOW, "other_person"),
        ("ok", Visitor("ada", "link"), NOW + 2, "expired"),
    ],
)
def test_a_form_is_for_whom_it_was_shown(gate: str, visitor: Visitor, now: float, expected: str) -> None:
    keys = Keys([NEW])
    form = Form(HERE, "ok", 1, "digest", "ada", "link", int(NOW) + 1, "nonce")
    token = keys.sign_form(form)

    assert keys.read_form(token, HERE, "ok", Visitor("ada", "link"), NOW) == form
    assert doubt(keys.read_form, token, HERE, gate, visitor, now) == expected
    assert command_id(form) == command_id(form)


def test_the_proxy_says_who_has_signed_in_and_nobody_else_does() -> None:
    signed_in = door().proxy.signed_in

    assert signed_in({"x-user": "ada@EXAMPLE.org", "x-proof": SECRET}, PEOPLE) == Visitor("ada", "login")
    assert signed_in({}, PEOPLE) is None
    assert doubt(signed_in, {"x-user": "ada"}, PEOPLE) == "not_the_proxy"
    assert doubt(signed_in, {"x-user": "ada", "x-proof": "s" * 31 + "é"}, PEOPLE) == "not_the_proxy"
    assert doubt(signed_in, {"x-user": "eve", "x-proof": SECRET}, PEOPLE) == "unknown"
    nobody = Proxy("X-User", "X-Proof", "")
    assert doubt(nobody.signed_in, {"x-user": "ada", "x-proof": ""}, PEOPLE) == "not_the_proxy"


def test_who_signed_in_counts_for_more_than_the_link_they_hold() -> None:
    here = door()
    link = here.keys.sign_link(Link(HERE, "ok", "ada", int(NOW) + 1))
    gone = here.keys.sign_link(Link(HERE, "ok", "eve", int(NOW) + 1))
    ada, bob = ({"x-user": one, "x-proof": SECRET} for one in ("ada", "bob"))

    assert here.visitor({}, link, HERE, "ok", NOW) == Visitor("ada", "link")
    assert here.visitor(ada, link, HERE, "ok", NOW) == Visitor("ada", "login")
    assert here.visitor(bob, "", HERE, "ok", NOW) == Visitor("bob", "login")
    assert here.visitor(bob, link, HERE, "ok", NOW + 9) == Visitor("bob", "login")  # expired
    assert here.visitor({}, "", HERE, "ok", NOW) is None
    assert doubt(here.visitor, bob, link, HERE, "ok", NOW) == "other_person"
    assert doubt(here.visitor, ada, link[:-2], HERE, "ok", NOW) == "forged"
    assert doubt(here.visitor, {}, gone, HERE, "ok", NOW) == "unknown"


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "https://plans.example.org"}, True),
        ({"origin": "https://plans.example.org"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "null"}, False),
        ({"sec-fetch-site": "same-site", "origin": "https://plans.example.org"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "https://evil.example"}, False),
        ({"origin": "https://plans.example.org.evil.example"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
def test_only_our_own_page_may_post(headers: dict[str, str], ours: bool) -> None:
    assert door().is_ours(headers) is ours


def test_the_file_of_keys_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "gatekeeper.keys"
    link = Link(HERE, "ok", "ada", int(NOW) + 1)
    token = read_keys(path).sign_link(link)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_keys(path).read_link(token, HERE, "ok", NOW) == link
    path.write_text(f"# newest first\n{NEW}\n{path.read_text()}")
    assert read_keys(path).read_link(token, HERE, "ok", NOW) == link
    path.write_text(f"{NEW}\n")
    assert doubt(read_keys(path).read_link, token, HERE, "ok", NOW) == "forged"


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("short\n", 0o600), ("é" * 40, 0o600), (NEW, 0o644)])
def test_a_file_of_keys_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / "gatekeeper.keys"
    path.write_text(text, "utf-8")
    path.chmod(mode)

    with pytest.raises(Unusable) as caught:
        read_keys(path)

    assert str(path) in str(caught.value)
    assert NEW not in str(caught.value)
