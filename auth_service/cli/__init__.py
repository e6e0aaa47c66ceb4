"""The commands. They read arguments, call the service or its core, and print.

Rules, statements and wire formats do not belong here.
"""

from auth_service.cli.app import main

__all__ = ["main"]
