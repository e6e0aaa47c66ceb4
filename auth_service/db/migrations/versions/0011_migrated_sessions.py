"""Sessions of other systems that became sessions of ours. The release before reads none."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATEMENTS = (
    # `id` is a SHA-256. There is no reference to the user: a deleted one's stay used.
    """
    CREATE TABLE migrated_sessions (
        issuer text COLLATE "C" NOT NULL,
        id bytea NOT NULL,
        user_id uuid NOT NULL,
        session_id uuid NOT NULL,
        request_hash bytea,
        migrated_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (issuer, id)
    )
    """,
    "CREATE INDEX ON migrated_sessions (expires_at)",
)


def upgrade() -> None:
    """Add the table."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Remove the table."""
    op.execute("DROP TABLE migrated_sessions")
