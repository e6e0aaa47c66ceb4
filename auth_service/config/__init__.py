"""The configuration: settings and their types, loading, key files, the reference of all settings.

Settings are read once, validated and frozen; every other package receives them as arguments.
The use of a setting does not belong here: nothing touches a socket, a database or a token.
"""
