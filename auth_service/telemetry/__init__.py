"""Logs and metrics of a process: how they are set up, and the metric objects.

What is logged and counted is decided by the modules that do it, and where it is served by web.
"""
