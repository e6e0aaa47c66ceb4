"""Login attempts are counted in a fixed number of buckets: by source, network, identifier, device.

The release before counts in `login_throttle`, which it finds as it was.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; unlogged, as `login_throttle` is: a crash gives all attempts back."""
    op.execute(
        """
        CREATE UNLOGGED TABLE login_buckets (
            slot integer PRIMARY KEY,
            full_at timestamptz NOT NULL
        ) WITH (fillfactor = 70)
        """
    )


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE login_buckets")
