from typing import Any

import pytest
from pydantic import ValidationError

from planmesh.directory import Directory

PEOPLE: dict[str, Any] = {
    "people": {
        "ada": {"name": "Ada Lovelace", "email": "Ada@example.org", "channels": ["json://127.0.0.1/ada"]},
        "bob": {"email": "bob@example.org"},
        "cleo": {},
    },
    "roles": {"cfo": {"members": ["ada"]}},
    "teams": {"finance": {"members": ["bob", "ada"], "lead": "ada"}, "oncall": {"members": ["cleo"]}},
    "operators": "team:oncall",
    "escalate_to": "role:cfo",
}


def directory(**changes: Any) -> Directory:
    return Directory.model_validate(PEOPLE | changes)


@pytest.mark.parametrize(
    ("reviewer", "people"),
    [
        ("person:ada", ("ada",)),
        ("ada@EXAMPLE.org", ("ada",)),
        ("role:cfo", ("ada",)),
        ("team:finance", ("ada", "bob")),
        ("role:operator", ("cleo",)),
        ("person:mallory", ()),
        ("ada", ()),
        ("", ()),
    ],
)
def test_a_reviewer_is_somebody(reviewer: str, people: tuple[str, ...]) -> None:
    assert directory().people_of(reviewer) == people


def test_somebody_answers_as_all_that_they_are() -> None:
    reviewers = ("team:finance", "role:cfo", "person:bob", "role:operator")

    assert directory().groups("ada", reviewers) == ("team:finance", "role:cfo")
    assert directory().groups("cleo", reviewers) == ("role:operator",)
    assert directory().groups("mallory", reviewers) == ()
    assert directory().everybody(reviewers) == ("ada", "bob", "cleo")


def test_whoever_signs_in_is_found_by_address_or_id() -> None:
    assert [directory().by_login(said) for said in ("ada@example.org", "cleo", "team:finance", "eve@x.org", "")] == [
        "ada",
        "cleo",
        None,
        None,
        None,
    ]


def test_a_space_is_somebodys() -> None:
    found = directory(spaces={"billing": {"owner": "ada@example.org"}, "shop": {"owner": "team:finance"}})

    assert [found.owners_of(space) for space in ("billing", "shop", "other")] == [("ada",), ("ada", "bob"), ()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roles": {"cfo": {"members": ["eve"]}}}, "the role cfo has eve, who is not among the people"),
        ({"roles": {"operator": {"members": ["ada"]}}}, "the role operator is everyone with an operator's credentials"),
        ({"teams": {"x": {"members": ["ada"], "lead": "bob"}}, "operators": None}, "led by bob, who is not in it"),
        ({"operators": "team:nobody"}, "operators names 'team:nobody', where nobody is found"),
        ({"operators": "role:operator"}, "operators names 'role:operator', where nobody is found"),
        ({"escalate_to": "eve@example.org"}, "escalate_to names 'eve@example.org', where nobody is found"),
        ({"spaces": {"billing": {"owner": "person:eve"}}}, "the owner of the space billing is 'person:eve', where"),
        ({"mail": "mailto://x?to=a@b.org"}, "mail has no {email} in it"),
        ({"people": {"executor": {}}}, "a person cannot be called executor"),
        ({"people": {"a": {"email": "x@y.z"}, "b": {"email": "X@y.z"}}}, "a and b have the same e-mail address"),
        ({"people": {"a b": {}}}, "should match pattern"),
        ({"people": {"ada": {"name": "A\r\nBcc: x"}}}, "should match pattern"),
        ({"people": {"ada": {"email": "a@b\r\nc"}}}, "should match pattern"),
    ],
)
def test_what_cannot_be_says_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        directory(**changes)

    assert said in str(caught.value)
