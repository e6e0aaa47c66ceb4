"""The first schema."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Identifiers and names compare byte by byte ("C"). The core normalises them, and an index in the
# order of a locale breaks when the system's C library changes that order.
STATEMENTS = (
    """
    CREATE TABLE users (
        id uuid PRIMARY KEY,
        password_hash text NOT NULL,
        roles text[] NOT NULL,
        scope text[] NOT NULL,
        disabled boolean NOT NULL,
        created_at timestamptz NOT NULL,
        revoked_before timestamptz
    )
    """,
    """
    CREATE TABLE user_identifiers (
        identifier text COLLATE "C" PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        position integer NOT NULL
    )
    """,
    "CREATE INDEX user_identifiers_user_id ON user_identifiers (user_id)",
    """
    CREATE TABLE service_accounts (
        client_id text COLLATE "C" PRIMARY KEY,
        secret_hash text NOT NULL,
        roles text[] NOT NULL,
        scope text[] NOT NULL,
        disabled boolean NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    # A refresh changes generation, refreshed_at and refresh_expires_at. No index contains these
    # columns and pages keep free space, so the update is HOT and leaves the indexes alone.
    """
    CREATE TABLE sessions (
        user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        id uuid NOT NULL,
        generation bigint NOT NULL,
        seed bytea NOT NULL,
        client_id text NOT NULL,
        device_label text NOT NULL,
        audience text[] NOT NULL,
        scope text[] NOT NULL,
        amr text[] NOT NULL,
        auth_time timestamptz NOT NULL,
        created_at timestamptz NOT NULL,
        refreshed_at timestamptz NOT NULL,
        refresh_expires_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        revoked_at timestamptz,
        request_id text COLLATE "C",
        PRIMARY KEY (user_id, id)
    ) WITH (fillfactor = 80)
    """,
    "CREATE INDEX sessions_id ON sessions (id)",
    "CREATE INDEX sessions_expires_at ON sessions (expires_at)",
    """
    CREATE UNIQUE INDEX sessions_request_id ON sessions (user_id, request_id)
    WHERE request_id IS NOT NULL
    """,
    """
    CREATE TABLE revocations (
        kind text NOT NULL CHECK (kind IN ('token', 'session', 'user', 'all')),
        target text COLLATE "C" NOT NULL,
        issued_before timestamptz,
        expires_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        PRIMARY KEY (kind, target),
        CHECK (kind NOT IN ('user', 'all') OR issued_before IS NOT NULL)
    )
    """,
    "CREATE INDEX revocations_xid ON revocations (xid)",
    "CREATE INDEX revocations_expires_at ON revocations (expires_at)",
    """
    CREATE TABLE signing_keys (
        kid text COLLATE "C" PRIMARY KEY,
        algorithm text NOT NULL,
        state text NOT NULL CHECK (state IN ('published', 'active', 'retired')),
        encrypted_secret bytea NOT NULL,
        created_at timestamptz NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX signing_keys_active ON signing_keys (algorithm) WHERE state = 'active'",
    # Unlogged, which makes each login cheaper. A crash empties it: all attempts are regained.
    """
    CREATE UNLOGGED TABLE login_throttle (
        identifier text COLLATE "C" PRIMARY KEY,
        full_at timestamptz NOT NULL
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE audit_log (
        at timestamptz NOT NULL,
        event text NOT NULL,
        user_id uuid,
        session_id uuid
    ) PARTITION BY RANGE (at)
    """,
    "CREATE INDEX audit_log_user_id ON audit_log (user_id, at)",
    "CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT",
    # If the default partition has rows of the month already, they stay there.
    """
    CREATE FUNCTION create_audit_partition(moment timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        month timestamptz := date_trunc('month', moment, 'UTC');
        name text := 'audit_log_' || to_char(month AT TIME ZONE 'UTC', 'YYYYMM');
    BEGIN
        IF to_regclass(name) IS NULL AND pg_try_advisory_xact_lock(hashtext(name)) THEN
            EXECUTE format(
                'CREATE TABLE IF NOT EXISTS %I PARTITION OF audit_log FOR VALUES FROM (%L) TO (%L)',
                name, month, (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'
            );
        END IF;
    EXCEPTION WHEN check_violation THEN
        NULL;
    END
    $$
    """,
)


def upgrade() -> None:
    """Create all tables."""
    for statement in STATEMENTS:
        op.execute(statement)
