"""Authentication service: Login, Refresh, Revoke and Validate over gRPC on PostgreSQL."""
