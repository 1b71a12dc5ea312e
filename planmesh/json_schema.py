"""JSON Schemas that strangers wrote: the form that an answer is to have.

What such a schema may say is less than all of JSON Schema (https://json-schema.org/draft/2020-12): nothing that could
take for ever (regular expressions, schemas that contain themselves), and nothing that is fetched from elsewhere.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

_MOST_BYTES: Final = 64 * 1024
_MOST_PARTS: Final = 2_000
_TOLD: Final = 5
_TOLD_CHARACTERS: Final = 200

_ONE: Final = frozenset({"additionalProperties", "items"})
_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_PLAIN: Final = frozenset(
    {
        "type",
        "required",
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "title",
        "description",
        "default",
        "examples",
        "format",
        "$schema",
    }
)
_WORDS: Final = frozenset({*_ONE, *_LISTS, *_PLAIN, "properties", "$ref", "$defs"})
_LOCAL: Final = "#/$defs/"


class BadSchema(ValueError):
    """It is not a schema that an answer can be held against; the text says why."""


class Form:
    """A schema of an object, checked.

    Attributes:
        schema: The same with everything that it refers to written out.

    Args:
        schema: What somebody wrote.

    Raises:
        BadSchema: It is not one, or says more than it may.
    """

    def __init__(self, schema: object) -> None:
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise BadSchema('expected the JSON Schema of an object, which has "type": "object"')
        size_bytes = len(msgspec.json.encode(schema))
        if size_bytes > _MOST_BYTES:
            raise BadSchema(f"a schema has at most {_MOST_BYTES:,} bytes; this one has {size_bytes:,}")
        definitions = schema.get("$defs", {})
        self._definitions: dict[str, Any] = definitions if isinstance(definitions, dict) else {}
        self._parts = 0
        self.schema: dict[str, Any] = self._written_out(schema, "", ())

    def check(self) -> None:
        """See whether every word has a value that it can have. Raises: BadSchema."""
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(self.schema)
        except SchemaError as error:
            raise BadSchema(f"{error.json_path}: {error.message[:_TOLD_CHARACTERS]}") from None

    def problems(self, value: object) -> list[str]:
        """What keeps *value* from having this form: the first few, each on a line of its own."""
        from jsonschema import Draft202012Validator

        found: Iterator[Any] = Draft202012Validator(self.schema).iter_errors(value)
        return [
            f"{one.json_path}: {one.message[:_TOLD_CHARACTERS]}" for one, _ in zip(found, range(_TOLD), strict=False)
        ]

    def _written_out(self, part: Any, at: str, within: tuple[str, ...]) -> Any:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise BadSchema(f"with everything that it refers to, a schema has at most {_MOST_PARTS:,} parts")
        if isinstance(part, bool):
            return part
        if not isinstance(part, dict):
            raise BadSchema(f"{at or '/'}: expected a schema, which is an object")
        if unknown := sorted(word for word in part if word not in _WORDS):
            raise BadSchema(f"{at or '/'}: {unknown[0]!a:.80} is not a word that a schema may have here")
        if "$ref" in part:
            return self._referred(part, at, within)
        found = {word: value for word, value in part.items() if word in _PLAIN}
        for word in _ONE & part.keys():
            found[word] = self._written_out(part[word], f"{at}/{word}", within)
        for word in _LISTS & part.keys():
            if not isinstance(part[word], list):
                raise BadSchema(f"{at}/{word}: expected a list of schemas")
            found[word] = [self._written_out(one, f"{at}/{word}/{n}", within) for n, one in enumerate(part[word])]
        if "properties" in part:
            if not isinstance(part["properties"], dict):
                raise BadSchema(f"{at}/properties: expected an object of schemas")
            found["properties"] = {
                name: self._written_out(one, f"{at}/properties/{name:.80}", within)
                for name, one in part["properties"].items()
            }
        return found

    def _referred(self, part: dict[str, Any], at: str, within: tuple[str, ...]) -> Any:
        reference = part["$ref"]
        name = reference.removeprefix(_LOCAL) if isinstance(reference, str) else ""
        if not isinstance(reference, str) or not reference.startswith(_LOCAL) or name not in self._definitions:
            raise BadSchema(f"{at}/$ref: expected a name in $defs ({_LOCAL}NAME); found {reference!a:.80}")
        if name in within:
            raise BadSchema(f"{at}/$ref: {name!a:.80} contains itself, and so can have no end")
        found = self._written_out(self._definitions[name], f"/$defs/{name:.80}", (*within, name))
        return {**found, "description": part["description"]} if "description" in part and found is not True else found
