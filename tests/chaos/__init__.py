"""Attacks and faults against a running service, each with its figures.

The functions are used by short tests and by the long runs of `make chaos`. Tests themselves and
the starting of servers live elsewhere.
"""
