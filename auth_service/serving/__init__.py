"""A running service: wiring, the server process, the supervisor of several workers, shared ports.

`wiring` is the one place where policies, the password hasher, the database and the core are built.
No rule and no wire format lives here.
"""
