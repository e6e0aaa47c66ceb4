"""Partitions of the audit log are dropped once all of their rows are old."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# A partition is dropped under a lock of the whole log. Whoever writes a row waits behind it, so it
# is given up after 200 ms; the upkeep tries again a minute later.
FUNCTION = """
    CREATE FUNCTION drop_audit_partitions(before timestamptz) RETURNS text[]
    LANGUAGE plpgsql AS $$
    DECLARE
        partition record;
        dropped text[] := '{}';
    BEGIN
        IF NOT pg_try_advisory_xact_lock(hashtext('drop_audit_partitions')) THEN
            RETURN dropped;
        END IF;
        PERFORM set_config('lock_timeout', '200ms', true);
        FOR partition IN
            SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'audit_log'::regclass AND c.relname ~ '^audit_log_[0-9]{6}$'
                AND (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month')
                    AT TIME ZONE 'UTC' <= before
            ORDER BY c.relname
        LOOP
            EXECUTE format('DROP TABLE %I', partition.name);
            dropped := dropped || partition.name::text;
        END LOOP;
        RETURN dropped;
    EXCEPTION WHEN lock_not_available THEN
        RETURN '{}';
    END
    $$
"""


def upgrade() -> None:
    """Add the function."""
    op.execute(FUNCTION)


def downgrade() -> None:
    """Drop the function."""
    op.execute("DROP FUNCTION drop_audit_partitions(timestamptz)")
