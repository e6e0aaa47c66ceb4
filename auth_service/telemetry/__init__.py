"""Logs and metrics of a process: how they are set up, and the metric objects.

Other modules decide what they log and count, and web serves the metrics.
"""
