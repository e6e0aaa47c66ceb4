"""Decides whether a caller is admitted: rules, the decision, and what a refused caller is told.

The edges of the service and the client library share this package; it is in the base install.
No transport lives here, except the mapping of errors to gRPC statuses in `status`.
"""
