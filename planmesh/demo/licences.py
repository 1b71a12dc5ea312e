"""How freely a licence lets software be used, judged by what a distribution says of itself.

A sorting for a person's review, not legal advice: what is not recognised is *unknown*, and where words allow
two readings the graver one counts.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

PERMISSIVE: Final = "permissive"
WEAK_COPYLEFT: Final = "weak copyleft"
STRONG_COPYLEFT: Final = "strong copyleft"
PROPRIETARY: Final = "proprietary"
UNKNOWN: Final = "unknown"

KINDS: Final = (PERMISSIVE, WEAK_COPYLEFT, STRONG_COPYLEFT, PROPRIETARY, UNKNOWN)
"""From the lightest to the gravest; nobody can judge what is unknown, so that is the gravest."""

NEED_A_LOOK: Final = frozenset({STRONG_COPYLEFT, PROPRIETARY, UNKNOWN})

# By the words that appear in SPDX identifiers, in classifiers and in what people write by hand. The patterns of
# two kinds never match the same words: the LGPL is not the GPL, and CC-BY is not CC-BY-SA.
_WORDS: Final = {
    PERMISSIVE: re.compile(
        r"\b(mit|mit-0|0?bsd|apache|isc|iscl|psfl?|python software foundation|python-2|cnri|unlicense|public domain"
        r"|cc0|cc-by(?!-(?:nc|nd|sa))|zlib|libpng|zpl|zope public|hpnd|historical permission|boost|bsl-1|ncsa|afl"
        r"|academic free|wtfpl|x11|blueoak|upl|universal permissive|postgresql|unicode|cecill-b|w3c|mulanpsl"
        r"|redistribution and use in source and binary forms|permission is hereby granted, free of charge"
        r"|permission to use, copy, modify)(?![a-z])"
    ),
    WEAK_COPYLEFT: re.compile(
        r"\blgpl|lesser general public|library general public|\bmpl|mozilla public|\bepl\b|eclipse public|\bcddl"
        r"|common development and distribution|\bcecill-c\b|\bartistic"
    ),
    STRONG_COPYLEFT: re.compile(
        r"\ba?gpl|affero|gnu general public|(?<!lesser )(?<!library )general public licen[cs]e|\bosl\b"
        r"|open software licen[cs]e|\beupl|european union public|\bcecill(?!-[bc]\b)|\bcc-by-sa|\bsleepycat"
    ),
    PROPRIETARY: re.compile(
        r"proprietary|commercial|all rights reserved|business source|\bbusl|\belastic|\bsspl|server side public"
        r"|polyform|freeware|educational use|home use|\bcc-by(?:-nc|-nd)|nvidia|\beula\b|end.user licen[cs]e"
    ),
}

# Additions to the GPL that let other software be linked or packed with the work.
_LINKING_EXCEPTIONS: Final = re.compile(
    r"classpath|gcc-exception|linking|openjdk|bootloader|universal-foss", re.IGNORECASE
)

_LEAF: Final = re.compile(r"([a-z0-9.+-]+)(?:\s+with\s+([a-z0-9.+-]+))?", re.IGNORECASE)
_BRACKETS: Final = re.compile(r"\(([^()]*)\)")


class Judgement(NamedTuple):
    """What a distribution's licence is taken to be.

    Attributes:
        kind: One of `KINDS`.
        licence: The words that it was judged by, empty if there are none.
        evidence: Where those words stand, such as ``"License-Expression"``.
    """

    kind: str
    licence: str
    evidence: str


def judge(expression: str, field: str, classifiers: Sequence[str], files: Sequence[str]) -> Judgement:
    """Judge a distribution by the first of its statements that can be read.

    Args:
        expression: `License-Expression` (PEP 639), an SPDX expression.
        field: `License`, free text.
        classifiers: The trove classifiers that begin with ``License ::``.
        files: Names of licence files; they are named as evidence, not read.
    """
    if expression:
        return Judgement(kind_of_expression(expression), expression, "License-Expression")
    if (kind := kind_of_words(field)) != UNKNOWN:
        return Judgement(kind, field, "License field")
    names = [
        name for name in (one.rpartition("::")[2].strip() for one in classifiers) if "approved" not in name.lower()
    ]
    known = [kind for kind in map(kind_of_words, names) if kind != UNKNOWN]
    if known:
        return Judgement(max(known, key=KINDS.index), " / ".join(names), "classifier")
    if field or names:
        return Judgement(UNKNOWN, field or " / ".join(names), "License field" if field else "classifier")
    return Judgement(UNKNOWN, "", "a licence file, no statement" if files else "no statement")


def kind_of_expression(expression: str) -> str:
    """The kind of an SPDX expression: the lightest choice of an ``OR``, the gravest part of an ``AND``.

    One that is malformed, or whose answer hangs on an identifier nobody knows, is unknown.
    Source: SPDX specification 3.0, annex "SPDX License Expressions".
    """
    if "=" in expression:  # not SPDX, and the mark that a judged bracket gets below
        return UNKNOWN
    # Inside out, without recursion: the depth of the brackets is the author's choice.
    while found := _BRACKETS.search(expression):
        rank = KINDS.index(_kind_without_brackets(found[1]))
        expression = f"{expression[: found.start()]}={rank}{expression[found.end() :]}"
    return _kind_without_brackets(expression)


def _kind_without_brackets(expression: str) -> str:
    choices = re.split(r"\s+or\s+", expression, flags=re.IGNORECASE)
    parts = [re.split(r"\s+and\s+", choice, flags=re.IGNORECASE) for choice in choices]
    return min((max(map(_kind_of_leaf, part), key=KINDS.index) for part in parts), key=KINDS.index)


def _kind_of_leaf(leaf: str) -> str:
    leaf = leaf.strip()
    if leaf.startswith("=") and leaf[1:].isdecimal() and int(leaf[1:]) < len(KINDS):
        return KINDS[int(leaf[1:])]
    match = _LEAF.fullmatch(leaf)
    if match is None:
        return UNKNOWN
    kind = _gravest(match[1])
    if "ref-" in match[1].lower() and kind != PROPRIETARY:  # the author's own text, whatever its name
        return UNKNOWN
    if kind == STRONG_COPYLEFT and _LINKING_EXCEPTIONS.search(match[2] or ""):
        return WEAK_COPYLEFT
    return kind


def kind_of_words(text: str) -> str:
    """The kind of a licence named in free text; an SPDX expression is read as one."""
    kind = kind_of_expression(text)
    return _gravest(text) if kind == UNKNOWN else kind


def _gravest(text: str) -> str:
    words = text.lower()
    return next((kind for kind in reversed(KINDS[:-1]) if _WORDS[kind].search(words)), UNKNOWN)


def telling_line(text: str) -> str:
    """The line of a `License` field that says which licence it is: some hold the whole text, copyright first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    titles = [line for line in lines if not line.lower().startswith(("copyright", "(c)", "©", "all rights reserved"))]
    line = next(iter(titles or lines), "")
    return "" if line.upper() in {"UNKNOWN", "NONE"} else line
