"""How strongly the user of a session was authenticated (`acr`).

All logins of the release before are by password alone, so that is the default: for the sessions
that exist, without writing their rows, and for those that it goes on to begin.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE sessions ADD COLUMN acr text COLLATE \"C\" NOT NULL DEFAULT '1fa'")


def downgrade() -> None:
    """Remove the column."""
    op.execute("ALTER TABLE sessions DROP COLUMN acr")
