"""The audit log tells who did it, from where, by which credential, and with what outcome.

Rows of before keep nulls in the new columns, so nothing is rewritten; the indexes take about a
second for a million rows. The release before goes on to insert rows, which get an id and a
transaction by default.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE audit_log
        ADD COLUMN id uuid,
        ADD COLUMN outcome text NOT NULL DEFAULT 'OK',
        ADD COLUMN actor_kind text,
        ADD COLUMN actor text COLLATE "C",
        ADD COLUMN credential text,
        ADD COLUMN source text COLLATE "C",
        ADD COLUMN request_id text COLLATE "C",
        ADD COLUMN trace_id text COLLATE "C",
        ADD COLUMN details jsonb,
        ADD COLUMN xid xid8
    """,
    "ALTER TABLE audit_log ALTER COLUMN id SET DEFAULT gen_random_uuid()",
    "ALTER TABLE audit_log ALTER COLUMN xid SET DEFAULT pg_current_xact_id()",
    # A row that is written twice, because the first commit seemed lost, is there once.
    "CREATE UNIQUE INDEX audit_log_at_id ON audit_log (at, id)",
    "CREATE INDEX audit_log_actor ON audit_log (actor, at) WHERE actor IS NOT NULL",
    "CREATE INDEX audit_log_xid ON audit_log (xid) WHERE xid IS NOT NULL",
    # The one way to write a row, so that each statement that changes something can write its row
    # in the same round trip.
    """
    CREATE FUNCTION write_audit(given jsonb) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit_log (
            at, id, event, outcome, actor_kind, actor, credential, source, request_id, trace_id,
            user_id, session_id, client_id, secret_id, audience, issuer, subject, kid, details
        )
        SELECT
            r.at, r.id, r.event, r.outcome, r.actor_kind, r.actor, r.credential, r.source,
            r.request_id, r.trace_id, r.user_id, r.session_id, r.client_id, r.secret_id,
            r.audience, r.issuer, r.subject, r.kid, r.details
        FROM jsonb_populate_record(NULL::audit_log, given) r
        ON CONFLICT DO NOTHING;
    END
    $$
    """,
    # The first start of a server writes rows before its upkeep makes partitions.
    "SELECT create_audit_partition(now()), create_audit_partition(now() + interval '1 month')",
)


def upgrade() -> None:
    """Add the columns, the indexes and the function."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: the log would lose who did what."""
    raise NotImplementedError("this migration is not undone; restore a backup")
