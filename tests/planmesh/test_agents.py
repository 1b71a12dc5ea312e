"""What an agent says of itself, by its function."""

from planmesh.agents import Context, find
from planmesh.agents import agent as mark
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
