-- Every statement of the service, by name. Frequent ones select by user_id or identifier first, so
-- that the schema can be sharded by it.

-- name: create_user
WITH created AS (
    INSERT INTO users (
        id, password_hash, roles, scope, disabled, created_at, password_change_required, request_id,
        request_hash
    )
    VALUES ($1, $2, $3, $4, $5, $6, $9, $10, $11)
    RETURNING id
), named AS (
    INSERT INTO user_identifiers (identifier, user_id, position, skeleton)
    SELECT given.identifier, created.id, given.position, given.skeleton
    FROM created,
        unnest($7::text[], $12::text[]) WITH ORDINALITY AS given (identifier, skeleton, position)
)
SELECT write_audit($8::jsonb) FROM created

-- name: find_owners
SELECT identifier, user_id FROM user_identifiers WHERE identifier = ANY ($1::text[])

-- name: find_looks
SELECT coalesce(skeleton, identifier) AS looks, identifier FROM user_identifiers
WHERE coalesce(skeleton, identifier) = ANY ($1::text[])

-- name: find_user_ids
SELECT id FROM users WHERE id = ANY ($1::uuid[])

-- name: import_users
-- Roles and scopes are joined by newlines, for an array of arrays has to be rectangular. In one
-- order, so that two imports of the same users wait for each other and do not deadlock.
WITH imported AS (
    INSERT INTO users (id, password_hash, roles, scope, disabled, created_at)
    SELECT id, password_hash, string_to_array(roles, chr(10)), string_to_array(scope, chr(10)),
        disabled, created_at
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[]
    ) AS given (id, password_hash, roles, scope, disabled, created_at)
    ORDER BY id
)
INSERT INTO user_identifiers (identifier, user_id, position, skeleton)
SELECT identifier, user_id, position, skeleton
FROM unnest($7::text[], $8::uuid[], $9::integer[], $10::text[])
    AS given (identifier, user_id, position, skeleton)
ORDER BY identifier COLLATE "C"

-- name: get_user
SELECT u.*, ARRAY(
    SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
) AS identifiers
FROM users u
WHERE u.id = $1

-- name: find_user
SELECT u.*, ARRAY(
    SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
) AS identifiers
FROM user_identifiers named
JOIN users u ON u.id = named.user_id
WHERE named.identifier = $1

-- name: find_requested_user
SELECT u.*, ARRAY(
    SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
) AS identifiers
FROM users u
WHERE u.request_id = $1

-- name: list_users
SELECT u.*, ARRAY(
    SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
) AS identifiers
FROM users u
WHERE ($2::uuid IS NULL OR u.id > $2)
    AND ($3::text IS NULL OR $3 = ANY (u.roles))
    AND ($4::boolean IS NULL OR u.disabled = $4)
ORDER BY u.id
LIMIT $1

-- name: list_users_named
-- The same, of users with an identifier from $5 up to $6. It is a statement of its own, so that every
-- plan begins with the few identifiers.
SELECT u.*, ARRAY(
    SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
) AS identifiers
FROM users u
JOIN (
    SELECT DISTINCT user_id FROM user_identifiers WHERE identifier >= $5 AND identifier < $6
) named ON named.user_id = u.id
WHERE ($2::uuid IS NULL OR u.id > $2)
    AND ($3::text IS NULL OR $3 = ANY (u.roles))
    AND ($4::boolean IS NULL OR u.disabled = $4)
ORDER BY u.id
LIMIT $1

-- name: update_user
UPDATE users SET roles = coalesce($2::text[], roles), scope = coalesce($3::text[], scope)
WHERE id = $1

-- name: lock_user_sessions
-- A refresh in progress holds its session, and another one waits or finds it locked.
SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL ORDER BY id FOR UPDATE

-- name: bar_user_tokens
-- As bar_user, past the tokens of all sessions, which go on: nobody is signed out.
UPDATE users SET revoked_before = GREATEST(revoked_before, $2, (
    SELECT date_trunc('second', max(s.refreshed_at)) + interval '1 second'
    FROM sessions s WHERE s.user_id = $1 AND s.revoked_at IS NULL
)), signed_out_before = coalesce(signed_out_before, revoked_before, 'epoch')
WHERE id = $1
RETURNING revoked_before

-- name: narrow_sessions
-- Takes from the sessions of a user the scopes that the user no longer has. $2 is the moment before
-- which their access tokens are revoked, if they are.
UPDATE sessions s SET revoked_before = coalesce($2::timestamptz, s.revoked_before), scope = ARRAY(
    SELECT held.scope FROM unnest(s.scope) WITH ORDINALITY held (scope, position)
    WHERE held.scope = ANY (u.scope) ORDER BY held.position
)
FROM users u
WHERE s.user_id = $1 AND u.id = $1 AND s.revoked_at IS NULL

-- name: delete_user
DELETE FROM users WHERE id = $1

-- name: add_identifier
INSERT INTO user_identifiers (identifier, user_id, position, skeleton)
SELECT $2, $1, coalesce(max(position), 0) + 1, $4 FROM user_identifiers WHERE user_id = $1
HAVING count(*) < $3::integer
RETURNING identifier

-- name: remove_identifier
DELETE FROM user_identifiers WHERE user_id = $1 AND identifier = $2 RETURNING identifier

-- name: count_identifiers
SELECT count(*) FROM user_identifiers WHERE user_id = $1

-- name: set_password_change_required
UPDATE users SET password_change_required = $2 WHERE id = $1 RETURNING id

-- name: list_user_sessions
SELECT * FROM sessions
WHERE user_id = $1 AND revoked_at IS NULL AND refresh_expires_at > $2 AND expires_at > $2
    AND ($4::uuid IS NULL OR id > $4)
ORDER BY id
LIMIT $3

-- name: bar_logins_before
-- A login in progress that would begin its session before $2 is refused.
UPDATE users SET revoked_before = GREATEST(revoked_before, $2), signed_out_before = NULL
WHERE id = $1
RETURNING id

-- name: end_sessions_begun_before
UPDATE sessions SET revoked_at = $3
WHERE user_id = $1 AND revoked_at IS NULL AND created_at < $2
RETURNING id

-- name: set_password_hash
UPDATE users SET password_hash = $2
WHERE id = $1 AND ($3::text IS NULL OR password_hash = $3)
RETURNING id

-- name: set_user_disabled
UPDATE users SET disabled = $2 WHERE id = $1 RETURNING id

-- name: lock_user
SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE

-- A session that began in the second of an earlier sign-out has tokens dated revoked_before, ahead
-- of the clock. The sessions that end now ($3) move revoked_before past their own tokens.
-- name: bar_user
UPDATE users SET revoked_before = GREATEST(revoked_before, $2, (
    SELECT date_trunc('second', max(s.refreshed_at)) + interval '1 second'
    FROM sessions s WHERE s.user_id = $1 AND s.revoked_at = $3
)), signed_out_before = NULL
WHERE id = $1
RETURNING revoked_before

-- name: create_service_account
-- An account that had this id before may have been deleted within this second: what revoked its
-- tokens ($1) dates those of the new account, and no longer says that the account is disabled.
WITH created AS (
    INSERT INTO service_accounts (
        client_id, secret_hash, roles, scope, disabled, created_at, revoked_before, bound
    )
    SELECT $1::text, $6::text, $2::text[], $3::text[], $4::boolean, $5::timestamptz,
        (SELECT issued_before FROM revocations WHERE kind = 'user' AND target = $1), $8::boolean
    RETURNING client_id, created_at
), secret AS (
    INSERT INTO service_account_secrets (client_id, id, secret_hash, created_at)
    SELECT client_id, $7::uuid, $6, created_at FROM created WHERE $7 IS NOT NULL
), enabled AS (
    UPDATE revocations SET disables = false, xid = pg_current_xact_id()
    WHERE kind = 'user' AND target = (SELECT client_id FROM created) AND disables
)
SELECT write_audit($9::jsonb) FROM created

-- name: find_service_account
SELECT a.*, ARRAY(
    SELECT ROW (
        s.id, s.secret_hash, s.created_at, s.expires_at, s.last_used_at,
        coalesce(s.expires_at > clock_timestamp(), true)
    )
    FROM service_account_secrets s WHERE s.client_id = a.client_id ORDER BY s.created_at, s.id
) AS secrets
FROM service_accounts a
WHERE a.client_id = $1

-- name: list_service_accounts
SELECT a.*, ARRAY(
    SELECT ROW (
        s.id, s.secret_hash, s.created_at, s.expires_at, s.last_used_at,
        coalesce(s.expires_at > clock_timestamp(), true)
    )
    FROM service_account_secrets s WHERE s.client_id = a.client_id ORDER BY s.created_at, s.id
) AS secrets
FROM service_accounts a
WHERE $2::text IS NULL OR a.client_id > $2
ORDER BY a.client_id
LIMIT $1

-- name: update_service_account
WITH updated AS (
    UPDATE service_accounts
    SET roles = coalesce($2::text[], roles), scope = coalesce($3::text[], scope),
        bound = coalesce($4::boolean, bound)
    WHERE client_id = $1
    RETURNING client_id
)
SELECT client_id, write_audit($5::jsonb) FROM updated

-- name: lock_service_account
SELECT client_id FROM service_accounts WHERE client_id = $1 FOR NO KEY UPDATE

-- name: enable_service_account
UPDATE service_accounts SET disabled = false WHERE client_id = $1 RETURNING client_id

-- name: bar_service_account
-- If an earlier revocation lies ahead of the clock ($3), tokens may be dated by it: the next
-- revocation is a second later. $4 also disables the account.
UPDATE service_accounts
SET revoked_before = GREATEST($2::timestamptz, CASE
        WHEN revoked_before > $3::timestamptz THEN revoked_before + interval '1 second'
        ELSE revoked_before
    END),
    disabled = disabled OR $4
WHERE client_id = $1
RETURNING revoked_before

-- name: delete_service_account
DELETE FROM service_accounts WHERE client_id = $1

-- name: live_secrets
SELECT id FROM service_account_secrets
WHERE client_id = $1 AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY created_at, id

-- name: add_secret
-- Adds nothing if the secret would have expired. Secrets that have expired make room.
WITH pruned AS (
    DELETE FROM service_account_secrets WHERE client_id = $1 AND expires_at <= clock_timestamp()
)
INSERT INTO service_account_secrets (client_id, id, secret_hash, created_at, expires_at)
SELECT $1, $2, $3, $4::timestamptz, $5::timestamptz
WHERE $5 IS NULL OR $5 > clock_timestamp()
RETURNING id

-- name: delete_secret
DELETE FROM service_account_secrets WHERE client_id = $1 AND id = $2 RETURNING id

-- name: mirror_secret
-- For replicas of the release before, which know one secret and no expiry.
UPDATE service_accounts SET secret_hash = coalesce((
    SELECT secret_hash FROM service_account_secrets
    WHERE client_id = $1 AND expires_at IS NULL ORDER BY created_at, id LIMIT 1
), '')
WHERE client_id = $1

-- name: note_secret_use
-- A row that another replica is writing is left to it.
UPDATE service_account_secrets SET last_used_at = $3
WHERE client_id = $1 AND id = (
    SELECT id FROM service_account_secrets
    WHERE client_id = $1 AND id = $2 AND (last_used_at IS NULL OR last_used_at <= $4)
    FOR NO KEY UPDATE SKIP LOCKED
)

-- name: audiences_unless
-- All audiences, unless their version is the known one ($1): then no row. Without any audience there
-- is one row, of nulls but for the version. Actors that are disabled are left out.
SELECT v.version, a.*, ARRAY(
    SELECT ROW (r.client_id, r.subject_roles)
    FROM audience_actors r JOIN service_accounts s USING (client_id)
    WHERE r.audience_id = a.id AND NOT s.disabled ORDER BY r.client_id
) AS actors
FROM (SELECT) AS always
LEFT JOIN audience_version v ON true
LEFT JOIN audiences a ON true
WHERE v.version IS DISTINCT FROM $1::uuid
ORDER BY a.name

-- name: find_audience
SELECT a.*, ARRAY(
    SELECT ROW (r.client_id, r.subject_roles)
    FROM audience_actors r WHERE r.audience_id = a.id ORDER BY r.client_id
) AS actors
FROM audiences a
WHERE a.name = $1

-- name: list_audiences
SELECT a.*, ARRAY(
    SELECT ROW (r.client_id, r.subject_roles)
    FROM audience_actors r WHERE r.audience_id = a.id ORDER BY r.client_id
) AS actors
FROM audiences a
WHERE $2::text IS NULL OR a.name > $2
ORDER BY a.name
LIMIT $1

-- name: create_audience
WITH created AS (
    INSERT INTO audiences (id, name, scope, open, bound, created_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING name
)
SELECT write_audit($7::jsonb) FROM created

-- name: update_audience
WITH updated AS (
    UPDATE audiences SET scope = coalesce($2::text[], scope), open = coalesce($3::boolean, open),
        bound = coalesce($4::boolean, bound)
    WHERE name = $1
    RETURNING name
)
SELECT name, write_audit($5::jsonb) FROM updated

-- name: delete_audience
WITH deleted AS (
    DELETE FROM audiences WHERE name = $1 RETURNING name
)
SELECT name, write_audit($2::jsonb) FROM deleted

-- name: lock_audience
-- Until the end of the transaction nobody deletes it.
SELECT id FROM audiences WHERE name = $1 FOR KEY SHARE

-- name: grant_to_user
-- Ids of audiences that are deleted leave. No row if the user has as many as it may ($3).
UPDATE users u SET audiences = ARRAY(
    SELECT a.id FROM audiences a WHERE a.id = ANY (u.audiences) OR a.id = $2 ORDER BY a.id
)
WHERE id = $1 AND $3::integer > (
    SELECT count(*) FROM audiences a WHERE a.id = ANY (u.audiences) AND a.id <> $2
)
RETURNING id

-- name: grant_to_service_account
UPDATE service_accounts s SET audiences = ARRAY(
    SELECT a.id FROM audiences a WHERE a.id = ANY (s.audiences) OR a.id = $2 ORDER BY a.id
)
WHERE client_id = $1 AND $3::integer > (
    SELECT count(*) FROM audiences a WHERE a.id = ANY (s.audiences) AND a.id <> $2
)
RETURNING client_id

-- name: withdraw_from_user
UPDATE users SET audiences = array_remove(audiences, $2) WHERE id = $1 RETURNING id

-- name: withdraw_from_service_account
UPDATE service_accounts SET audiences = array_remove(audiences, $2)
WHERE client_id = $1 RETURNING client_id

-- name: put_actor
INSERT INTO audience_actors (audience_id, client_id, subject_roles) VALUES ($1, $2, $3)
ON CONFLICT (audience_id, client_id) DO UPDATE SET subject_roles = excluded.subject_roles

-- name: delete_actor
DELETE FROM audience_actors WHERE audience_id = $1 AND client_id = $2 RETURNING client_id

-- name: find_workload_mapping
SELECT * FROM workload_mappings WHERE issuer = $1 AND subject = $2

-- name: list_workload_mappings
SELECT * FROM workload_mappings
WHERE $2::text IS NULL OR (issuer, subject) > ($2, $3::text)
ORDER BY issuer, subject
LIMIT $1

-- name: add_workload_mapping
WITH added AS (
    INSERT INTO workload_mappings (issuer, subject, client_id, claims, created_at)
    VALUES ($1, $2, $3, $4::jsonb, $5)
    RETURNING client_id
)
SELECT write_audit($6::jsonb) FROM added

-- name: delete_workload_mapping
WITH deleted AS (
    DELETE FROM workload_mappings WHERE issuer = $1 AND subject = $2 RETURNING *
)
SELECT client_id, write_audit($3::jsonb || jsonb_build_object('client_id', client_id)) FROM deleted

-- name: find_client_key
SELECT *, true AS live FROM client_keys
WHERE client_id = $1 AND kid = $2 AND (expires_at IS NULL OR expires_at > clock_timestamp())

-- name: list_client_keys
SELECT *, coalesce(expires_at > clock_timestamp(), true) AS live FROM client_keys
WHERE client_id = $1 ORDER BY created_at, kid

-- name: prune_client_keys
DELETE FROM client_keys WHERE client_id = $1 AND expires_at <= clock_timestamp()

-- name: add_client_key
-- Adds nothing if the key would have expired.
INSERT INTO client_keys (client_id, kid, jwk, created_at, expires_at)
SELECT $1, $2, $3, $4::timestamptz, $5::timestamptz
WHERE $5 IS NULL OR $5 > clock_timestamp()
RETURNING kid

-- name: delete_client_key
DELETE FROM client_keys WHERE client_id = $1 AND kid = $2 RETURNING kid

-- name: use_assertion
-- Of the replicas that are shown one assertion, one gets a row back.
INSERT INTO assertion_ids (client_id, id, expires_at) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
RETURNING client_id

-- name: reserve_login_attempt
-- Buckets leak: full_at is when all attempts of one are regained, and a bucket without a row is
-- full. A stranger takes one attempt from each bucket of $3 that is not null (source, network,
-- identifier), or from none. Who shows something of the account ($6 to $10: sessions and devices)
-- takes one from the first bucket that this opens.
-- A refused attempt writes nothing and reads no user. The time to wait comes from the statement's
-- snapshot and is a hint. An identifier that nobody has comes with the hash of a user who follows
-- from it: to refuse it then takes as long as to refuse a user drawn at random.
-- Attempts that pass the snapshot at the same time race for the rows. The loser has taken from the
-- buckets before, which are its own network's, and never from the last one, the identifier's.
WITH own AS MATERIALIZED (
    SELECT shown.slot
    FROM unnest($6::integer[], $7::uuid[], $8::uuid[], $9::bigint[], $10::timestamptz[])
        WITH ORDINALITY AS shown (slot, user_id, session_id, generation, issued_at, n)
    JOIN user_identifiers i ON i.identifier = $1 AND i.user_id = shown.user_id
    JOIN users u ON u.id = i.user_id
    LEFT JOIN sessions s ON s.user_id = u.id AND s.id = shown.session_id
    WHERE CASE WHEN shown.issued_at IS NULL
        THEN s.revoked_at IS NULL AND LEAST(s.refresh_expires_at, s.expires_at) > $2
            AND s.generation - 1 <= coalesce(shown.generation, s.generation)
        ELSE shown.issued_at >= coalesce(u.revoked_before, '-infinity')
    END
    ORDER BY shown.n LIMIT 1
), asked AS MATERIALIZED (
    SELECT a.* FROM unnest($3::integer[], $4::integer[], $5::interval[])
        WITH ORDINALITY AS a (slot, burst, refill, n)
    WHERE a.slot IS NOT NULL AND NOT EXISTS (SELECT FROM own)
    UNION ALL
    SELECT slot, $11::integer, $12::interval, 3 FROM own
), tightest AS MATERIALIZED (
    SELECT slot, refill, GREATEST((SELECT full_at FROM login_buckets t WHERE t.slot = asked.slot), $2)
        + refill - burst * refill - $2 AS wait
    FROM asked ORDER BY wait DESC LIMIT 1
), of_source AS (
    INSERT INTO login_buckets AS t (slot, full_at)
    SELECT a.slot, $2 + a.refill FROM asked a, tightest WHERE a.n = 1 AND wait <= interval '0'
    ON CONFLICT (slot) DO UPDATE SET full_at = GREATEST(t.full_at, $2) + $5[1]
    WHERE GREATEST(t.full_at, $2) + $5[1] <= $2 + $4[1] * $5[1]
    RETURNING slot
), of_network AS (
    INSERT INTO login_buckets AS t (slot, full_at)
    SELECT a.slot, $2 + a.refill FROM asked a, tightest WHERE a.n = 2 AND wait <= interval '0'
        AND ($3[1] IS NULL OR EXISTS (SELECT FROM of_source))
    ON CONFLICT (slot) DO UPDATE SET full_at = GREATEST(t.full_at, $2) + $5[2]
    WHERE GREATEST(t.full_at, $2) + $5[2] <= $2 + $4[2] * $5[2]
    RETURNING slot
), taken AS (
    INSERT INTO login_buckets AS t (slot, full_at)
    SELECT a.slot, $2 + a.refill FROM asked a, tightest WHERE a.n = 3 AND wait <= interval '0'
        AND (EXISTS (SELECT FROM own) OR EXISTS (SELECT FROM of_network))
    ON CONFLICT (slot) DO UPDATE SET full_at = GREATEST(t.full_at, $2) + (excluded.full_at - $2)
    WHERE GREATEST(t.full_at, $2) <= $2 + (
        SELECT (a.burst - 1) * a.refill FROM asked a WHERE a.n = 3
    )
    RETURNING $1 AS identifier
)
SELECT taken.identifier IS NOT NULL AS reserved, (SELECT slot FROM own) AS own,
    tightest.slot AS bucket,
    CASE WHEN wait > interval '0' THEN wait ELSE tightest.refill END AS wait,
    CASE WHEN taken.identifier IS NOT NULL AND u.id IS NULL THEN (
        SELECT d.password_hash FROM users d WHERE d.id >= md5($1)::uuid ORDER BY d.id LIMIT 1
    ) END AS decoy,
    u.*, ARRAY(
        SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
    ) AS identifiers
FROM tightest
LEFT JOIN taken ON true
LEFT JOIN user_identifiers named ON named.identifier = taken.identifier
LEFT JOIN users u ON u.id = named.user_id

-- name: give_login_attempts_back
-- In the order of the slots, in which attempts take.
UPDATE login_buckets t SET full_at = t.full_at - held.amount
FROM (
    SELECT b.slot, g.amount
    FROM login_buckets b JOIN unnest($1::integer[], $2::interval[]) AS g (slot, amount) USING (slot)
    ORDER BY b.slot FOR UPDATE OF b
) held
WHERE t.slot = held.slot

-- name: reserve_factor_attempt
-- A leaky bucket: full_at is when all attempts are regained. A refused attempt writes nothing. The
-- time to wait comes from the statement's snapshot and is a hint.
-- The factors come with it, so that a wrong code takes no more round trips than a wrong password.
WITH taken AS (
    INSERT INTO factor_attempts AS t (user_id, full_at)
    VALUES ($1, $2::timestamptz + $4::interval)
    ON CONFLICT (user_id) DO UPDATE SET full_at = GREATEST(t.full_at, $2) + $4
    WHERE GREATEST(t.full_at, $2) + $4 <= $2 + $3::integer * $4
    RETURNING t.user_id
)
SELECT CASE WHEN taken.user_id IS NULL THEN COALESCE(
    (SELECT full_at + $4 - $3 * $4 - $2 FROM factor_attempts WHERE user_id = $1), $4
) END AS wait, u.*, ARRAY(
    SELECT i.identifier FROM user_identifiers i WHERE i.user_id = u.id ORDER BY i.position
) AS identifiers, ARRAY(
    SELECT ROW (
        f.id, f.kind, f.name, f.secret, f.counter, f.created_at, f.last_used_at, f.credential_id
    )
    FROM user_factors f WHERE f.user_id = u.id ORDER BY f.created_at, f.id
) AS factors
FROM (SELECT) AS always
LEFT JOIN taken ON true
LEFT JOIN users u ON u.id = taken.user_id

-- name: list_factors
SELECT * FROM user_factors WHERE user_id = $1 ORDER BY created_at, id

-- name: count_recovery_codes
SELECT count(*) FROM recovery_codes WHERE user_id = $1

-- name: use_totp_step
-- Of the calls that present one code, one gets a row back: the others wait for its row, and then find
-- the step used. The attempts are given back.
WITH used AS (
    UPDATE user_factors SET counter = $3::bigint, last_used_at = $4
    WHERE user_id = $1 AND id = $2 AND kind = 'totp' AND counter < $3
    RETURNING user_id
), cleared AS (
    DELETE FROM factor_attempts WHERE user_id = (SELECT user_id FROM used)
)
SELECT user_id FROM used

-- name: find_passkey
SELECT * FROM user_factors WHERE credential_id = $1

-- name: use_passkey
-- The counter of many passkeys is always 0, so that only the id of the challenge tells a replay.
WITH fresh AS (
    INSERT INTO assertion_ids (client_id, id, expires_at) VALUES ($5, $6, $7)
    ON CONFLICT DO NOTHING
    RETURNING id
), used AS (
    UPDATE user_factors SET counter = $3::bigint, last_used_at = $4
    WHERE user_id = $1 AND id = $2 AND kind = 'webauthn'
        AND (counter < $3 OR counter = 0 AND $3 = 0) AND EXISTS (SELECT FROM fresh)
    RETURNING user_id
), cleared AS (
    DELETE FROM factor_attempts WHERE user_id = (SELECT user_id FROM used)
)
SELECT user_id FROM used

-- name: use_recovery_code
WITH used AS (
    DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2 RETURNING user_id
), cleared AS (
    DELETE FROM factor_attempts WHERE user_id = (SELECT user_id FROM used)
)
SELECT user_id, write_audit($3::jsonb) FROM used

-- name: note_second_factor
-- $2 tells whether it has to be the first one.
UPDATE users SET second_factor = true WHERE id = $1 AND NOT ($2 AND second_factor) RETURNING id

-- name: count_factors
SELECT count(*) FROM user_factors WHERE user_id = $1

-- name: add_factor
INSERT INTO user_factors (
    user_id, id, kind, name, secret, counter, credential_id, created_at, last_used_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: delete_factor
DELETE FROM user_factors WHERE user_id = $1 AND id = $2 RETURNING id

-- name: delete_factors
DELETE FROM user_factors WHERE user_id = $1

-- name: note_no_second_factor
UPDATE users SET second_factor = false
WHERE id = $1 AND NOT EXISTS (SELECT FROM user_factors WHERE user_id = $1)
RETURNING id

-- name: delete_recovery_codes
DELETE FROM recovery_codes WHERE user_id = $1

-- name: add_recovery_codes
INSERT INTO recovery_codes (user_id, code_hash) SELECT $1, unnest($2::bytea[])

-- name: step_up_session
-- Its generation stays: the refresh token that a client holds is good as before.
WITH stepped AS (
    UPDATE sessions s SET amr = $3::text[], acr = $4, auth_time = $5::timestamptz
    FROM users u
    WHERE s.user_id = $1 AND s.id = $2 AND s.revoked_at IS NULL
        AND s.refresh_expires_at > clock_timestamp() AND s.expires_at > clock_timestamp()
        AND u.id = $1 AND NOT u.disabled AND u.revoked_before IS NOT DISTINCT FROM $6::timestamptz
    RETURNING s.id
)
SELECT id, write_audit($7::jsonb) FROM stepped

-- name: create_session
-- FOR SHARE waits for a revocation of the user that is in progress, and delays the next one, so no
-- session slips in between. If the password was replaced after it was proved, revoked_before is no
-- longer what it was then ($16), and no session is created. What the attempt took ($17, $21) is given
-- back in any case: the password was proved, and the retry of a request, which creates nothing, used
-- one too.
WITH created AS (
    INSERT INTO sessions (
        user_id, id, generation, seed, client_id, device_label, audience, scope, amr, auth_time,
        created_at, refreshed_at, refresh_expires_at, expires_at, request_id, bound_to, acr
    )
    SELECT u.id, $2, $3::bigint, $4, $5, $6, $7::text[], $8::text[], $9::text[],
        $10::timestamptz, $11::timestamptz, $12::timestamptz, $13::timestamptz, $14::timestamptz,
        $15, nullif($18::text, ''), $19
    FROM users u
    WHERE u.id = $1 AND NOT u.disabled
        AND (u.revoked_before IS NULL OR u.revoked_before <= $11)
        AND u.revoked_before IS NOT DISTINCT FROM $16::timestamptz
    FOR SHARE OF u
    ON CONFLICT (user_id, request_id) WHERE request_id IS NOT NULL DO NOTHING
    RETURNING *
), given_back AS (
    UPDATE login_buckets t SET full_at = t.full_at - held.amount
    FROM (
        SELECT b.slot, g.amount
        FROM login_buckets b
        JOIN unnest($17::integer[], $21::interval[]) AS g (slot, amount) USING (slot)
        ORDER BY b.slot FOR UPDATE OF b
    ) held
    WHERE t.slot = held.slot
)
SELECT *, write_audit($20::jsonb) FROM created

-- name: use_old_session
-- Of the replicas that are shown a session of another system, one gets a row back, and the others
-- once that one has committed. After the end ($7) none does.
INSERT INTO migrated_sessions (
    issuer, id, user_id, session_id, request_hash, migrated_at, expires_at
)
SELECT $1, $2, $3, $4, $5, clock_timestamp(), $6::timestamptz
WHERE $7::timestamptz > clock_timestamp()
ON CONFLICT DO NOTHING
RETURNING id

-- name: find_traded_session
-- For a retry: within the grace ($5), or with the request id ($4) of the first.
SELECT s.* FROM migrated_sessions m
JOIN sessions s ON s.user_id = m.user_id AND s.id = m.session_id
JOIN users u ON u.id = s.user_id
WHERE m.issuer = $1 AND m.id = $2 AND m.user_id = $3
    AND (m.request_hash = $4::bytea OR m.migrated_at + $5::interval >= clock_timestamp())
    AND $6::timestamptz > clock_timestamp()
    AND NOT u.disabled AND s.revoked_at IS NULL AND s.generation = 0
    AND s.refresh_expires_at > clock_timestamp()

-- name: find_requested_session
SELECT s.* FROM sessions s JOIN users u ON u.id = s.user_id
WHERE s.user_id = $1 AND s.request_id = $2 AND NOT u.disabled

-- name: lock_session
-- Waits for the row, so that rotate_session finds it free and takes the time after the wait.
SELECT id FROM sessions WHERE user_id = $1 AND id = $2 FOR UPDATE

-- name: rotate_session
-- Moves a live session from a generation between $4 and $3 to the one after $3, unless another
-- transaction holds its row. The database's clock at the moment of the write dates it, so a
-- statement that was delayed does not shorten the grace.
-- A session that began in the second of a sign-out everywhere is dated revoked_before, ahead of the
-- clock: the sign-out must not cover its next tokens either. A session is never dated back, because
-- a sign-out everywhere goes by the date of the last tokens and must cover the earlier ones. Only a
-- date further ahead than verifiers allow ($7) is dropped: the database's clock was set back.
-- The tokens are for the audiences $10, or else for those of the session. Nothing changes if the user
-- may no longer have tokens for one of them: it may be granted again. $11 is the service's own one.
-- If the roles of the user changed after this statement began, it still sees the old ones, and an
-- older revoked_before than its session has: nothing changes.
-- A session that is bound to a client certificate needs that one ($12), and a session that is not
-- has no tokens for an audience that asks for one.
UPDATE sessions s
SET generation = $3::bigint + 1,
    refreshed_at = GREATEST(free.now, u.revoked_before, CASE
        WHEN s.refreshed_at <= free.now + $7::interval THEN s.refreshed_at
    END),
    refresh_expires_at = LEAST(free.now + $6::interval, s.expires_at),
    refresh_request_hash = $8
FROM users u, (
    SELECT id, audience, bound_to, clock_timestamp() AS now FROM sessions
    WHERE user_id = $1 AND id = $2 FOR UPDATE SKIP LOCKED
) free, LATERAL (
    SELECT array_agg(named.name) FILTER (
            WHERE NOT (named.name = $11::text OR coalesce(a.open OR a.id = ANY (u.audiences), false))
                OR a.bound AND free.bound_to IS NULL
        ) AS refused,
        coalesce(array_agg(DISTINCT belongs.scope) FILTER (WHERE belongs.scope IS NOT NULL), '{}') AS scope
    FROM unnest(CASE WHEN $10::text[] = '{}' THEN free.audience ELSE $10 END) named (name)
    LEFT JOIN audiences a ON a.name = named.name
    LEFT JOIN unnest(a.scope) belongs (scope) ON true
) target
WHERE s.user_id = $1 AND s.id = free.id AND s.generation BETWEEN $4::bigint AND $3
    AND s.scope @> $5::text[] AND s.audience @> $10
    AND target.refused IS NULL AND (target.scope @> $5 OR '*' = ANY (target.scope))
    AND (s.bound_to IS NULL OR s.bound_to = $12::text)
    AND s.revoked_at IS NULL AND s.refresh_expires_at > free.now AND s.expires_at > free.now
    AND refresh_token_id(s.seed, $3) = $9::bytea
    AND (s.revoked_before IS NULL OR s.revoked_before <= u.revoked_before)
    AND u.id = $1 AND NOT u.disabled
RETURNING s.*, u.roles, target.scope AS audience_scope

-- name: get_session
-- The last columns tell of the audiences $3, or else of those of the session, as in rotate_session.
SELECT s.*, u.roles, u.disabled, clock_timestamp() AS read_at,
    target.refused, target.scope AS audience_scope
FROM sessions s JOIN users u ON u.id = s.user_id, LATERAL (
    SELECT array_agg(named.name) FILTER (
            WHERE NOT (named.name = $4::text OR coalesce(a.open OR a.id = ANY (u.audiences), false))
                OR a.bound AND s.bound_to IS NULL
        ) AS refused,
        coalesce(array_agg(DISTINCT belongs.scope) FILTER (WHERE belongs.scope IS NOT NULL), '{}') AS scope
    FROM unnest(CASE WHEN $3::text[] = '{}' THEN s.audience ELSE $3 END) named (name)
    LEFT JOIN audiences a ON a.name = named.name
    LEFT JOIN unnest(a.scope) belongs (scope) ON true
) target
WHERE s.user_id = $1 AND s.id = $2

-- name: find_session
SELECT * FROM sessions WHERE id = $1

-- name: list_sessions
SELECT * FROM sessions
WHERE user_id = $1 AND revoked_at IS NULL AND refresh_expires_at > $2 AND expires_at > $2
ORDER BY created_at DESC, id
LIMIT $3

-- name: end_session
UPDATE sessions SET revoked_at = $3
WHERE user_id = $1 AND id = $2 AND revoked_at IS NULL
RETURNING id

-- name: end_user_sessions
UPDATE sessions SET revoked_at = $2
WHERE user_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $3::uuid
RETURNING id, refreshed_at

-- name: add_revocation
-- xid changes with the row, so that readers whose cursor is past its first version see it again.
INSERT INTO revocations AS r (kind, target, issued_before, expires_at, created_at, disables)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (kind, target) DO UPDATE
SET issued_before = GREATEST(r.issued_before, excluded.issued_before),
    expires_at = GREATEST(r.expires_at, excluded.expires_at),
    disables = r.disables OR excluded.disables,
    xid = pg_current_xact_id()

-- name: find_revocations
SELECT r.kind, r.target, r.issued_before, r.expires_at, r.xid, r.disables, r.created_at
FROM revocations r JOIN unnest($1::text[], $2::text[]) AS named (kind, target)
    ON r.kind = named.kind AND r.target = named.target
WHERE r.expires_at > now()
ORDER BY r.created_at, r.kind, r.target

-- name: note_enabled
UPDATE revocations SET disables = false, xid = pg_current_xact_id()
WHERE kind = 'user' AND target = $1 AND disables

-- name: feed_position
-- now() is the start of the transaction, and so not later than the snapshot.
SELECT pg_is_in_recovery() AS standby, database_epoch() AS epoch, now() AS as_of,
    pg_current_snapshot() AS snapshot

-- name: revocations_since
-- What was committed since a snapshot: its end is $1, and $2 were in progress in it. xid is the id of
-- the top-level transaction, also of rows that a subtransaction wrote, as in the snapshot.
SELECT kind, target, issued_before, expires_at, xid, disables
FROM revocations WHERE xid >= $1::xid8 OR xid = ANY ($2::xid8[])

-- name: first_revocations_since
-- The same, at most $3 rows, beside the position. The limits inside make every plan read the rows
-- from the index of xid: a poll with nothing new reads no row.
WITH position AS MATERIALIZED (
    SELECT pg_is_in_recovery() AS standby, database_epoch() AS epoch, now() AS as_of,
        pg_current_snapshot() AS snapshot
)
SELECT position.*, r.kind, r.target, r.issued_before, r.expires_at, r.xid, r.disables
FROM position
LEFT JOIN (
    (SELECT * FROM revocations WHERE xid >= $1::xid8 ORDER BY xid LIMIT $3)
    UNION ALL
    (SELECT * FROM revocations WHERE xid = ANY ($2::xid8[]) ORDER BY xid LIMIT $3)
) r ON true
LIMIT $3

-- name: mark_epoch
-- Returns when a replica first saw the epoch.
WITH pruned AS (
    DELETE FROM feed_epochs WHERE epoch <> $1 AND seen_at < now() - interval '30 days'
)
INSERT INTO feed_epochs AS f (epoch, seen_at)
SELECT $1, CASE WHEN EXISTS (SELECT FROM feed_epochs) THEN now() ELSE 'epoch' END
ON CONFLICT (epoch) DO UPDATE SET seen_at = f.seen_at
RETURNING seen_at

-- name: lost_revocations
-- The positions of what the database does not know. A replica keeps whole seconds, and an expiry
-- that is up to a second later than the row's.
SELECT known.n::integer - 1 AS n
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
    WITH ORDINALITY AS known (kind, target, issued_before, expires_at, n)
LEFT JOIN revocations r ON r.kind = known.kind AND r.target = known.target
WHERE known.expires_at > now() AND (
    r.target IS NULL
    OR r.expires_at < known.expires_at - interval '1 second'
    OR r.issued_before < known.issued_before
)

-- name: end_sessions
-- Returns those that were live; the order lets replicas do this at the same time.
WITH ended AS (
    UPDATE sessions SET revoked_at = $2::timestamptz
    WHERE (user_id, id) IN (
        SELECT user_id, id FROM sessions WHERE id = ANY ($1::uuid[]) AND revoked_at IS NULL
        ORDER BY id FOR UPDATE
    )
    RETURNING user_id, id
)
SELECT id, write_audit($3::jsonb || jsonb_build_object(
    'id', gen_random_uuid(), 'user_id', user_id, 'session_id', id
)) FROM ended

-- name: end_sessions_before
UPDATE sessions SET revoked_at = $3
WHERE user_id = $1 AND revoked_at IS NULL AND created_at < $2

-- name: notify_revocations
SELECT pg_notify('authn_feed', '')

-- name: write_audit
-- A row that was written before, by its time and id, is left as it is.
SELECT write_audit(given) FROM unnest($1::jsonb[]) AS given

-- name: list_audit
-- Rows of old releases have no id, and tie if they have one time.
SELECT * FROM audit_log
WHERE at >= coalesce($1::timestamptz, '-infinity') AND at < coalesce($2::timestamptz, 'infinity')
    AND ($3::text IS NULL OR event = $3)
    AND ($4::text IS NULL OR starts_with(event, $4))
    AND ($5::text IS NULL OR actor = $5)
    AND ($6::uuid IS NULL OR user_id = $6)
    AND ($7::text IS NULL OR client_id = $7)
    AND ($8::text IS NULL OR outcome = $8)
    AND (NOT $9::boolean OR outcome <> 'OK')
    AND ($10::text IS NULL OR source = $10)
    AND at <= coalesce($11::timestamptz, 'infinity')
    AND (at, coalesce(id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
        < (coalesce($11, 'infinity'), coalesce($12::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
ORDER BY at DESC, id DESC
FETCH FIRST $13 ROWS WITH TIES

-- name: audit_since
-- What was committed since a snapshot: its end is $1, and $2 were in progress in it. A page has whole
-- transactions, in their order; rows before the time $4 are left out.
WITH position AS MATERIALIZED (
    SELECT pg_is_in_recovery() AS standby, database_epoch() AS epoch, now() AS as_of,
        pg_current_snapshot() AS snapshot
)
SELECT position.*, r.*
FROM position
LEFT JOIN (
    (
        SELECT * FROM audit_log
        WHERE xid >= $1::xid8 AND at >= coalesce($4::timestamptz, '-infinity')
        ORDER BY xid FETCH FIRST $3 ROWS WITH TIES
    )
    UNION ALL
    (
        SELECT * FROM audit_log
        WHERE xid = ANY ($2::xid8[]) AND at >= coalesce($4, '-infinity')
    )
) r ON true
ORDER BY r.xid, r.at, r.id

-- name: drop_audit
SELECT drop_audit_partitions($1)

-- name: prune_audit_default
WITH pruned AS (
    DELETE FROM audit_log_default WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM audit_log_default WHERE at < $1::timestamptz LIMIT $2
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_revocations
WITH pruned AS (
    DELETE FROM revocations WHERE expires_at <= $1::timestamptz AND ctid = ANY (ARRAY(
        SELECT ctid FROM revocations WHERE expires_at <= $1
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_sessions
WITH pruned AS (
    DELETE FROM sessions WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sessions WHERE expires_at <= $1::timestamptz - interval '1 day'
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_assertion_ids
WITH pruned AS (
    DELETE FROM assertion_ids WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM assertion_ids WHERE expires_at <= $1::timestamptz
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_migrated_sessions
WITH pruned AS (
    DELETE FROM migrated_sessions WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM migrated_sessions WHERE expires_at <= $1::timestamptz
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_login_buckets
WITH pruned AS (
    DELETE FROM login_buckets WHERE full_at <= $1::timestamptz AND ctid = ANY (ARRAY(
        SELECT ctid FROM login_buckets WHERE full_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_login_throttle
-- What replicas of the release before count in.
WITH pruned AS (
    DELETE FROM login_throttle WHERE full_at <= $1::timestamptz AND ctid = ANY (ARRAY(
        SELECT ctid FROM login_throttle WHERE full_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: prune_factor_attempts
WITH pruned AS (
    DELETE FROM factor_attempts WHERE full_at <= $1::timestamptz AND ctid = ANY (ARRAY(
        SELECT ctid FROM factor_attempts WHERE full_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM pruned

-- name: extend_audit_log
SELECT create_audit_partition($1), create_audit_partition($1::timestamptz + interval '1 month')

-- name: load_keys
SELECT * FROM signing_keys ORDER BY activate_at, created_at, kid

-- name: keys_since
SELECT * FROM signing_keys WHERE xid >= $1::xid8 OR xid = ANY ($2::xid8[])

-- name: lock_keys
SELECT pg_advisory_xact_lock(hashtext('auth_service.signing_keys'))

-- name: put_key
INSERT INTO signing_keys (
    kid, algorithm, encrypted_secret, created_at, activate_at, retire_at, remove_at, compromised_at,
    changed_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp())
ON CONFLICT (kid) DO UPDATE SET
    encrypted_secret = excluded.encrypted_secret,
    activate_at = excluded.activate_at,
    retire_at = excluded.retire_at,
    remove_at = excluded.remove_at,
    compromised_at = excluded.compromised_at,
    changed_at = excluded.changed_at,
    xid = pg_current_xact_id()
RETURNING changed_at

-- name: restore_key
-- Of two versions the one that was written later holds. A key that was ever compromised stays so.
INSERT INTO signing_keys AS k (
    kid, algorithm, encrypted_secret, created_at, activate_at, retire_at, remove_at, compromised_at,
    changed_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (kid) DO UPDATE SET
    activate_at = CASE WHEN excluded.changed_at > k.changed_at
        THEN excluded.activate_at ELSE k.activate_at END,
    retire_at = CASE WHEN excluded.changed_at > k.changed_at
        THEN excluded.retire_at ELSE k.retire_at END,
    remove_at = CASE WHEN excluded.changed_at > k.changed_at
        THEN excluded.remove_at ELSE k.remove_at END,
    compromised_at = coalesce(k.compromised_at, excluded.compromised_at),
    changed_at = GREATEST(k.changed_at, excluded.changed_at),
    xid = pg_current_xact_id()
WHERE excluded.changed_at > k.changed_at
    OR (k.compromised_at IS NULL AND excluded.compromised_at IS NOT NULL)
RETURNING kid

-- name: prune_keys
-- Removes a key long after the trust in it ended; until then `keys list` shows it.
DELETE FROM signing_keys
WHERE coalesce(remove_at, compromised_at) < $1::timestamptz - interval '30 days'
AND (compromised_at IS NULL OR compromised_at < $1 - interval '30 days')

-- name: load_root_key
SELECT encrypted_secret FROM root_key

-- name: insert_root_key
INSERT INTO root_key (encrypted_secret) VALUES ($1) ON CONFLICT DO NOTHING
RETURNING clock_timestamp()

-- name: replace_root_key
UPDATE root_key SET encrypted_secret = $1

-- name: require_standby
SELECT current_setting('synchronous_standby_names') <> '',
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on'
    END, true),
    pg_logical_emit_message(true, 'auth-service', '')

-- name: schema_is_migrated
SELECT to_regclass('alembic_version') IS NOT NULL

-- name: schema_version
SELECT version_num FROM alembic_version

-- name: takes_writes
SELECT NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean
    AND (NOT $1::boolean OR current_setting('synchronous_standby_names') <> '')

-- name: ping
SELECT 1

-- name: read_clock
SELECT clock_timestamp()
