"""The planner makes plans of goals.

It reads goals from the stream GOALS, checks the plan document that each carries against what the mesh can do (the
stream CATALOGUE, and the consumers of WORK), completes it, and asks the executor, by a command on COMMANDS, to create
the plan; or to put on record that the goal was refused, with everything that is wrong with it. It keeps no state:
the same goal gives the same command, but for goals in words, which a model makes a plan of
(`planmesh.planner.drafting`): the first plan that the log has of such a goal is its plan.

`planmesh.planner.compile.compile_plan` checks a plan document without a mesh.
"""
