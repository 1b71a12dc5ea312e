"""What an agent says of itself, by its function."""

import pytest

from planmesh.agents import Context, find
from planmesh.agents import agent as mark
from planmesh.schemas import codec
from planmesh.schemas.codec import encode
from planmesh.schemas.plan import Permissions
from planmesh.schemas.work import AgentDescription


def described(module_name: str) -> dict[str, AgentDescription]:
    return {name: found.description for name, found in find([module_name], entry_point=False).items()}


@mark(destructive=True)
def wipe(disk: str, passes: int = 3, labels: "list[str] | None" = None, *, anything=None, context: Context) -> None:  # type: ignore[no-untyped-def]
    """Wipes a disk."""


@mark
def look(disk: str) -> None:
    """Looks at a disk."""


def test_whoever_writes_plans_learns_how_parameters_are_annotated() -> None:
    found = described(__name__)["wipe"]

    assert found.types == {"disk": "str", "passes": "int", "labels": "list[str] | None"}
    assert [(one.name, one.required) for one in found.parameters] == [
        ("disk", True),
        ("passes", False),
        ("labels", False),
        ("anything", False),
    ]


def test_what_cannot_be_undone_is_declared() -> None:
    assert {name: found.destructive for name, found in described(__name__).items()} == {"wipe": True, "look": False}


def pay(to: str) -> None:
    """Pays somebody."""


def test_secrets_may_be_called_as_variables_of_the_environment_are() -> None:
    mark(permissions=Permissions(secrets=("BANK_TOKEN", "_key", "bank-token")))(pay)

    told = codec.description.decode(encode(pay.__planmesh_agent__.description))  # type: ignore[attr-defined]
    assert told.permissions.secrets == ("BANK_TOKEN", "_key", "bank-token")


@pytest.mark.parametrize(
    ("permissions", "where"),
    [(Permissions(secrets=("BANK TOKEN",)), "secrets"), (Permissions(network=("a\nb",)), "network")],
)
def test_what_no_planner_would_understand_is_refused_before_anything_runs(permissions: Permissions, where: str) -> None:
    with pytest.raises(ValueError, match=rf"agent pay: what it declares is not understood: .*permissions\.{where}"):
        mark(permissions=permissions, destructive=True)(pay)
