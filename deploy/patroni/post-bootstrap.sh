#!/bin/sh
# Patroni runs this once, on the first primary, with a connection string of the superuser. Makes the
# role and the database of the service; its password is in AUTH_DATABASE_PASSWORD (node.env).
set -eu
psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 "$1" <<'SQL'
\getenv password AUTH_DATABASE_PASSWORD
CREATE ROLE auth LOGIN PASSWORD :'password';
-- A Refresh waits for this server alone. A lost one is harmless: the client's next refresh adopts
-- it. Login, Revoke and changes of keys wait for a standby with AUTH_DURABILITY=replicated.
ALTER ROLE auth SET synchronous_commit = local;
CREATE DATABASE auth OWNER auth;
SQL
