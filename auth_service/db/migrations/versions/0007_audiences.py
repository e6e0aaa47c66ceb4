"""Audiences are registered: which scopes belong to each, and who may have tokens for it.

Every audience of a live session is registered, open to all and with any scope, so that the upgrade
ends no session. The release before reads none of this; what it asks for is not checked.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Grants name the id. So an audience that is created under the name of a deleted one has none.
    """
    CREATE TABLE audiences (
        id uuid PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE,
        scope text[] NOT NULL,
        open boolean NOT NULL,
        bound boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE audience_actors (
        audience_id uuid NOT NULL REFERENCES audiences ON DELETE CASCADE,
        client_id text COLLATE "C" NOT NULL REFERENCES service_accounts ON DELETE CASCADE,
        subject_roles text[] NOT NULL,
        PRIMARY KEY (audience_id, client_id)
    )
    """,
    "CREATE INDEX ON audience_actors (client_id)",
    # Replicas keep all audiences in memory, and read them again when this changes. It is random, so
    # that no two databases, and no two ends of one's history, have the same.
    """
    CREATE TABLE audience_version (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        version uuid NOT NULL
    )
    """,
    """
    CREATE FUNCTION note_audience_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audience_version (version) VALUES (gen_random_uuid())
        ON CONFLICT (one) DO UPDATE SET version = excluded.version;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER note_audience_change AFTER INSERT OR UPDATE OR DELETE ON audiences
    FOR EACH STATEMENT EXECUTE FUNCTION note_audience_change()
    """,
    """
    CREATE TRIGGER note_audience_change AFTER INSERT OR UPDATE OR DELETE ON audience_actors
    FOR EACH STATEMENT EXECUTE FUNCTION note_audience_change()
    """,
    # A service account that is disabled no longer acts for anybody.
    """
    CREATE TRIGGER note_actor_change AFTER UPDATE ON service_accounts
    FOR EACH ROW WHEN (OLD.disabled <> NEW.disabled) EXECUTE FUNCTION note_audience_change()
    """,
    # Before any table is locked: this reads all sessions.
    """
    INSERT INTO audiences (id, name, scope, open, created_at)
    SELECT gen_random_uuid(), named.name, '{*}', true, now()
    FROM (
        SELECT DISTINCT unnest(audience) AS name FROM sessions
        WHERE revoked_at IS NULL AND refresh_expires_at > now()
    ) named
    """,
    # The restricted audiences that are granted to the account.
    "ALTER TABLE users ADD COLUMN audiences uuid[] NOT NULL DEFAULT '{}'",
    """
    ALTER TABLE service_accounts
        ADD COLUMN audiences uuid[] NOT NULL DEFAULT '{}',
        ADD COLUMN bound boolean NOT NULL DEFAULT false
    """,
    # The thumbprint of the client certificate that the tokens of a session are bound to.
    'ALTER TABLE sessions ADD COLUMN bound_to text COLLATE "C"',
    'ALTER TABLE audit_log ADD COLUMN audience text COLLATE "C"',
)


def upgrade() -> None:
    """Add the tables and their triggers, and columns of the accounts and of the audit log."""
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: who may have tokens for what would be lost."""
    raise NotImplementedError("this migration is not undone; restore a backup")
