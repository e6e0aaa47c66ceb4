"""The configuration: settings and their types, loading, key files, the reference of all settings.

Settings are read once, validated and frozen; every other package receives them as arguments.
What a setting is for does not live here: no socket, database or token is touched.
"""
