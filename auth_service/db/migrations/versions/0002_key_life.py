"""Signing keys get dates instead of a state; refresh tokens get a root key in the database."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # The state of a key follows from these dates and the clock, so no replica has to change it.
    """
    ALTER TABLE signing_keys
        ADD COLUMN activate_at timestamptz,
        ADD COLUMN retire_at timestamptz,
        ADD COLUMN remove_at timestamptz,
        ADD COLUMN compromised_at timestamptz,
        ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()
    """,
    """
    UPDATE signing_keys SET activate_at = created_at,
        retire_at = CASE WHEN state = 'retired' THEN now() END,
        remove_at = CASE WHEN state = 'retired' THEN now() + interval '1 day' END
    """,
    "ALTER TABLE signing_keys ALTER COLUMN activate_at SET NOT NULL, DROP COLUMN state",
    """
    ALTER TABLE signing_keys ADD CHECK (retire_at IS NULL OR remove_at IS NOT NULL)
    """,
    """
    CREATE TABLE root_key (
        id boolean PRIMARY KEY DEFAULT true CHECK (id),
        encrypted_secret bytea NOT NULL
    )
    """,
)


def upgrade() -> None:
    """Replace the state by dates."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: keys would lose their dates."""
    raise NotImplementedError("this migration is not undone; restore a backup")
