"""What replicas need to write again what a failover lost."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Names the run of the database in which its transaction ids are comparable: its system, its
    # timeline (a failover or a restore begins another) and its last crash, which may lose
    # asynchronous commits and give their ids again. PostgreSQL resets its statistics at each start
    # that no clean shutdown preceded, and at no other. Empty if the server does not tell.
    """
    CREATE FUNCTION database_epoch() RETURNS text
    LANGUAGE plpgsql STABLE AS $$
    BEGIN
        RETURN coalesce((
            SELECT system_identifier || '-' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
                || '-' || extract(epoch FROM stats_reset)
            FROM pg_control_system(), pg_stat_archiver
        ), '');
    EXCEPTION WHEN OTHERS THEN
        RETURN '';
    END
    $$
    """,
    # When a replica first saw each epoch; the very first one began at no failover.
    """
    CREATE TABLE feed_epochs (
        epoch text COLLATE "C" PRIMARY KEY,
        seen_at timestamptz NOT NULL
    )
    """,
    "ALTER TABLE revocations ADD COLUMN disables boolean NOT NULL DEFAULT false",
    "ALTER TABLE signing_keys ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now()",
)


def upgrade() -> None:
    """Add the function, the table and two columns."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Remove them."""
    op.execute("ALTER TABLE signing_keys DROP COLUMN changed_at")
    op.execute("ALTER TABLE revocations DROP COLUMN disables")
    op.execute("DROP TABLE feed_epochs")
    op.execute("DROP FUNCTION database_epoch()")
