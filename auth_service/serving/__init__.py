"""A running service: wiring, server process, maintenance, supervisor, workers, shared ports.

`wiring` is the one place where policies, the password hasher, the database and the core are built.
Rules and wire formats do not belong here.
"""
