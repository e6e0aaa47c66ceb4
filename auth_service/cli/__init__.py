"""The commands. They read arguments, call the service or its core, and print; nothing else."""

from auth_service.cli.app import main

__all__ = ["main"]
