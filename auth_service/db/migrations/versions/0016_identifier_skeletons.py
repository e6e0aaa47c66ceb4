"""Identifiers that look alike belong to one user: what each looks like, in a unique index.

Users who look alike already keep their identifiers and log in as before: the skeleton of the first
one is written, and the others stand for themselves. So do identifiers that the release before adds.
"""

import sqlalchemy
from alembic import op

from auth_service.db.confusables import skeleton

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

WRITE = """
    UPDATE user_identifiers SET skeleton = :skeleton
    WHERE identifier = :identifier AND NOT EXISTS (
        SELECT FROM user_identifiers WHERE coalesce(skeleton, identifier) = :skeleton
    )
"""


def upgrade() -> None:
    """Add a column and an index, and write the skeletons of the few that are not ASCII."""
    # NULL stands for the identifier itself. A printable ASCII character is one from space to tilde.
    op.execute('ALTER TABLE user_identifiers ADD COLUMN skeleton text COLLATE "C"')
    op.execute(
        "CREATE UNIQUE INDEX user_identifiers_looks"
        " ON user_identifiers ((coalesce(skeleton, identifier)))"
    )
    connection = op.get_bind()
    beyond = "SELECT identifier FROM user_identifiers WHERE identifier ~ '[^ -~]' ORDER BY 1"
    for (identifier,) in connection.execute(sqlalchemy.text(beyond)).all():
        if (looks := skeleton(identifier)) is not None:
            names = {"identifier": identifier, "skeleton": looks}
            connection.execute(sqlalchemy.text(WRITE), names)


def downgrade() -> None:
    """Remove the column, and the index with it."""
    op.execute("ALTER TABLE user_identifiers DROP COLUMN skeleton")
