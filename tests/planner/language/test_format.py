"""Scripts as they should look."""

import string

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planmesh.planner.language.findings import Findings
from planmesh.planner.language.format import format_script
from planmesh.planner.language.parse import parse
from planmesh.planner.language.source import Source
from planmesh.planner.language.translate import translate

UNTIDY = '''\
-- about all of it

# more
script "X"   -- the name
version = "1"
concurrency 5


reviewer="role:operator"
-- before the inputs
input
    topic :text   -- what
    -- deep
    n: list < text >=[ "a","b" ]
output
 x:text = y
-- a step
do "A" with b -- does
   prompt = """
     Hello
       World
     """
   a={x:1,"y z":[1,2,
     3], -- inside
     q: join(a,
        b)}
   c=join( a ,   "x  y" )
   -- before the binding
   -> y
   -- still of A

-- before the let
let  z = [ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", {k: "v"}]
each q in  z parallel   3

   do "Q" with b

      f = q
      -> r
   -- end of the body
-> all
decide "D"
   when y.a=="x"->"One"
   otherwise->"Two"
"One":
   -- first in One
   do "B" with b
     on error :  retry  3
     on error: fallback c {x:1}
   -- last in One
"Two":
   check "C" y.b>1
     on fail: fail "no {y.b}"
     on pass:continue
-- the end
'''

TIDY = '''\
-- about all of it

# more
script "X"  -- the name
version "1"
concurrency = 5

reviewer = "role:operator"

-- before the inputs
input
  topic : text  -- what
  -- deep
  n : list < text > = ["a", "b"]

output
  x : text = y

-- a step
do "A" with b  -- does
  prompt = """
    Hello
      World
    """
  a = {x:1,"y z":[1,2,
    3], -- inside
    q: join(a,
       b)}
  c = join( a , "x  y" )
  -- before the binding
  -> y
  -- still of A

-- before the let
let z = [
  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
  { k: "v" },
]

each q in z parallel 3
  do "Q" with b
    f = q
    -> r
  -- end of the body
-> all

decide "D" with rules
  when y.a=="x" -> "One"
  otherwise -> "Two"

"One":
  -- first in One
  do "B" with b
    on error: retry 3
    on error: fallback c { x: 1 }
  -- last in One

"Two":
  check "C" y.b>1
    on fail: fail "no {y.b}"
    on pass: continue
-- the end
'''


def test_a_script_is_written_as_it_should_look() -> None:
    assert format_script(UNTIDY) == TIDY


def test_what_was_formatted_is_formatted_to_itself() -> None:
    assert format_script(TIDY) == TIDY


def test_formatting_changes_nothing_that_is_said() -> None:
    assert translate(TIDY).document == translate(UNTIDY).document


def test_a_script_that_cannot_be_read_is_left_as_it_is() -> None:
    found = format_script('do "A" with\nfoo\n')

    assert [(one.line, one.code) for one in found if not isinstance(one, str)] == [
        (1, "syntax"),
        (2, "unknown_keyword"),
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "-- only a comment\n", "  -- indented\n"])
def test_a_script_without_steps_is_formatted_as_well(text: str) -> None:
    assert format_script(text) == text.strip() + ("\n" if text.strip() else "")


def test_tabs_become_spaces_and_windows_line_ends_plain_ones() -> None:
    assert format_script('do "A" with b\r\n\ta = [\r\n\t\t1, -- one\r\n\t]\r\n\t\t\r\n') == (
        'do "A" with b\n  a = [\n   1, -- one\n  ]\n'
    )


def test_an_object_that_is_too_long_has_a_line_for_each_key() -> None:
    keys = ", ".join(f'"key {number}": [{number}, "{"x" * 20}"]' for number in range(4))

    formatted = format_script(f'do "A" with b\n  a = {{ {keys} }}\n')

    assert isinstance(formatted, str)
    assert formatted.splitlines()[1:3] == ["  a = {", f'    "key 0": [0, "{"x" * 20}"],']
    assert format_script(formatted) == formatted


# --- any script ------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "topic", "when", "do", "x1"])
texts = st.text(alphabet=string.ascii_letters + ' .,{}"\\\n#-é', max_size=12).map(
    lambda text: msgspec.json.encode(text.replace("{", "{{").replace("}", "}}")).decode()
)
leaves = st.one_of(
    names.filter(lambda name: name not in ("when", "do")),
    texts,
    st.integers(-5, 5).map(str),
    st.sampled_from(
        ["true", "null", '"{a}"', 'join([a, "b"],  ", ")', "a.b[0]", '"x {a.b} y"', '"""\n    long\n     er\n  """']
    ),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{' , '.join(items)}]"),
        st.lists(inner, max_size=4).map(lambda items: "[\n" + "".join(f"  {item}, -- c\n" for item in items) + "]"),
        st.dictionaries(st.sampled_from(["k", "key two"]), inner, max_size=2).map(
            lambda items: "{" + ",".join(f'"{key}":{item}' for key, item in items.items()) + "}"
        ),
    ),
    max_leaves=6,
)
comments = st.sampled_from(["", "", "", "-- said", "# x", "   -- indented"])


@st.composite
def blocks(draw: st.DrawFn, depth: int = 0, indent: str = "") -> str:
    """A block of a script, untidy but right."""
    lines: list[str] = []
    deeper = indent + draw(st.sampled_from(["  ", "   ", " "]))
    for number in range(draw(st.integers(1, 3))):
        if comment := draw(comments):
            lines += [indent + comment]
        lines += [""] * draw(st.integers(0, 2))
        kind = draw(st.sampled_from(["do", "gate", "emit", "let", "each", "decide"]))
        behind = draw(st.sampled_from(["", "  -- behind", " # behind"]))
        if kind == "let":
            lines.append(f"{indent}let  v{number} ={draw(values)}{behind}")
        elif kind == "each" and depth < 2:
            lines.append(f"{indent}each  i in   a parallel 2{behind}")
            lines.append(draw(blocks(depth + 1, deeper)))
            lines.append(f"{indent}-> all{number}")
        elif kind == "decide" and depth < 2:
            lines.append(f'{indent}decide "D{number}"{behind}')
            lines.append(f'{indent}   when a==1  ->"L{number}"')
            lines.append(f'{indent}"L{number}" :')
            lines.append(draw(blocks(depth + 1, deeper)))
        else:
            lines.append(f'{indent}do   "Do {number}"  with w{behind}')
            for name in draw(st.lists(names, max_size=3, unique=True)):
                if comment := draw(comments):
                    lines.append(f"{indent} {comment}")
                lines.append(f"{indent}  {name}={draw(values)}{draw(st.sampled_from(['', ' -- f']))}")
            if draw(st.booleans()):
                lines.append(f"{indent}  ->b{number}")
    return "\n".join(lines)


def plain(text: str) -> object:
    """What a script says, without its places."""
    source = Source(text)
    findings = Findings(source)
    parse(source, findings)
    assert not findings, [(one.line, one.message) for one in findings.problems()]
    return translate(text).document


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_formatting_any_script_keeps_what_it_says_and_settles_at_once(text: str) -> None:
    formatted = format_script(text)

    assert isinstance(formatted, str), text
    assert format_script(formatted) == formatted
    assert plain(formatted) == plain(text)
    assert sorted(_comments(formatted)) == sorted(_comments(text))


def _comments(text: str) -> list[str]:
    source = Source(text)
    return [one.text for one in parse(source, Findings(source)).layout.comments]
