"""The client library beside the oldest and the newest versions of what it depends on.

`python -m tests.compat` (make compat) installs the base package into an environment for each set of
versions, and runs the client's tests there. test_live.py is a part of the normal suite as well.
"""
