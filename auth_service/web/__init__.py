"""The HTTP edge: HTTP ↔ core calls and nothing else."""
