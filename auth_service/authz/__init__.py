"""Whether a caller is let in: the rule of a route, the decision, and what a refused caller is told.

The service's own edges and the client library share this package; it is part of the base install.
No transport lives here; `status` holds the one mapping of a refusal to a gRPC status.
"""
