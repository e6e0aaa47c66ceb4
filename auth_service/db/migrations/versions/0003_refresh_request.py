"""Sessions remember which request made their current generation."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. It has no index, so that a refresh stays a HOT update."""
    op.execute("ALTER TABLE sessions ADD COLUMN refresh_request_hash bytea")


def downgrade() -> None:
    """Drop the column: only what retries may rely on is lost."""
    op.execute("ALTER TABLE sessions DROP COLUMN refresh_request_hash")
