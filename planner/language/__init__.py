"""The plan language: a script (a file that ends in ``.plan``) to a plan document.

    text ──layout──► lines ──grammar──► parts ──parse──► tree ──flow, steps, scope──► document

`layout` finds the logical lines and the comments; `grammar` reads one line (lark, `grammar.lark`), with `values` for
what stands behind a ``=``; `parse` puts lines together, in the indented form or the flat one; `tree` is what comes out.
`translate` makes a plan document of it: `names` names the steps, `scope` knows what names stand for, `write` puts
values into the form of the document, `steps` has one function for each kind of step, and `flow` says which step waits
for which, and runs in which branch. What comes after that, the planner does to any document
(`planmesh.planner.compile`). `format` writes a script as it should look.

Problems gather in `findings`, with their line and column. Expressions and templates are those of
`planmesh.schemas.expressions` and `planmesh.schemas.templates`; there is no other language in here.
"""
