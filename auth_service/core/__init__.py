"""The rules: sessions, accounts, credentials, passwords, validation, the life cycle of keys.

A rule takes plain values and models, calls the database through `db` and raises `errors`.
No SQL lives here, and nothing of gRPC or HTTP.
"""
