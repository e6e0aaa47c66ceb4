"""Fetches the public keys of the issuers that vouch for workloads, on a schedule.

Here are the sources of keys, by file, HTTP and SPIFFE's Workload API, and what reads them. What a
key may be used for stands in `tokens`, and who may log in by it in `core`.
"""
