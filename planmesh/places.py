"""Where in the text of a plan document its parts are. Pure."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import yaml

_LOCATED_BYTES: Final = 256 * 1024  # finding lines takes a second for each MiB


class Spot(NamedTuple):
    """A line and a column, from 1."""

    line: int
    column: int


def locate(text: str, pointers: Iterable[str]) -> dict[str, Spot]:
    """Where in *text* the JSON Pointers lead, as far as they do; nothing for a text that is large or broken."""
    if len(text) > _LOCATED_BYTES:
        return {}
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return {}
    spots = {pointer: _spot(root, pointer) for pointer in pointers if root is not None}
    return {pointer: spot for pointer, spot in spots.items() if spot is not None}


def broken_at(text: str) -> Spot | None:
    """Where *text* stops being YAML; None if it is, or nobody can tell."""
    if len(text) > _LOCATED_BYTES:
        return None
    try:
        yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return None if mark is None else Spot(mark.line + 1, mark.column + 1)
    except (yaml.YAMLError, RecursionError):
        return None
    return None


def _spot(node: Any, pointer: str) -> Spot | None:
    spot = node
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == key), None)
            if pair is None:
                return None
            spot, node = pair
        elif isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            spot = node = node.value[int(key)]
        else:
            return None
    return Spot(spot.start_mark.line + 1, spot.start_mark.column + 1)
