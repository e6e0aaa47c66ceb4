"""Converts rows of the database to the classes of models.py, and back."""

import json
from collections.abc import Sequence

import asyncpg

from auth_service.models import (
    ActorRule,
    Audience,
    ClientKey,
    ClientSecret,
    Factor,
    FactorKind,
    Revocation,
    RevocationKind,
    ServiceAccount,
    Session,
    StoredKey,
    User,
    WorkloadMapping,
)

Arguments = Sequence[object]
_KINDS = {kind.value: kind for kind in RevocationKind}


def user(row: asyncpg.Record) -> User:
    """Read a row of users with its identifiers."""
    return User(
        id=row["id"],
        identifiers=tuple(row["identifiers"]),
        password_hash=row["password_hash"],
        roles=tuple(row["roles"]),
        scope=tuple(row["scope"]),
        disabled=row["disabled"],
        created_at=row["created_at"],
        revoked_before=row["revoked_before"],
        audiences=tuple(row["audiences"]),
        second_factor=row["second_factor"],
        signed_out_before=row["signed_out_before"] or row["revoked_before"],
        password_change_required=row["password_change_required"],
    )


def factor(row: asyncpg.Record) -> Factor:
    """Read a row of user_factors."""
    return Factor(
        user_id=row["user_id"],
        id=row["id"],
        kind=FactorKind(row["kind"]),
        name=row["name"],
        secret=row["secret"],
        counter=row["counter"],
        credential_id=row["credential_id"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
    )


def factors_of(row: asyncpg.Record) -> list[Factor]:
    """Read the factors in a row of users."""
    return [
        Factor(row["id"], id_, FactorKind(kind), *columns) for id_, kind, *columns in row["factors"]
    ]


def factor_arguments(of: Factor) -> Arguments:
    """Return the arguments of add_factor."""
    return (
        of.user_id, of.id, of.kind.value, of.name, of.secret, of.counter, of.credential_id,
        of.created_at, of.last_used_at,
    )  # fmt: skip


def service_account(row: asyncpg.Record) -> ServiceAccount:
    """Read a row of service_accounts with its secrets."""
    return ServiceAccount(
        client_id=row["client_id"],
        secrets=tuple(ClientSecret(*columns) for columns in row["secrets"]),
        roles=tuple(row["roles"]),
        scope=tuple(row["scope"]),
        disabled=row["disabled"],
        created_at=row["created_at"],
        revoked_before=row["revoked_before"],
        audiences=tuple(row["audiences"]),
        bound=row["bound"],
    )


def audience(row: asyncpg.Record) -> Audience:
    """Read a row of audiences with its actors."""
    return Audience(
        id=row["id"],
        name=row["name"],
        scope=tuple(row["scope"]),
        open=row["open"],
        bound=row["bound"],
        actors=tuple(ActorRule(client_id, tuple(roles)) for client_id, roles in row["actors"]),
        created_at=row["created_at"],
    )


def workload_mapping(row: asyncpg.Record) -> WorkloadMapping:
    """Read a row of workload_mappings."""
    return WorkloadMapping(
        issuer=row["issuer"],
        subject=row["subject"],
        client_id=row["client_id"],
        claims=json.loads(row["claims"]),
        created_at=row["created_at"],
    )


def client_key(row: asyncpg.Record) -> ClientKey:
    """Read a row of client_keys."""
    return ClientKey(
        client_id=row["client_id"],
        kid=row["kid"],
        jwk=row["jwk"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        live=row["live"],
    )


def session(row: asyncpg.Record) -> Session:
    """Read a row of sessions."""
    return Session(
        user_id=row["user_id"],
        id=row["id"],
        generation=row["generation"],
        seed=row["seed"],
        client_id=row["client_id"],
        device_label=row["device_label"],
        audience=tuple(row["audience"]),
        scope=tuple(row["scope"]),
        amr=tuple(row["amr"]),
        auth_time=row["auth_time"],
        created_at=row["created_at"],
        refreshed_at=row["refreshed_at"],
        refresh_expires_at=row["refresh_expires_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        bound_to=row["bound_to"] or "",
        acr=row["acr"],
        refresh_request_hash=row["refresh_request_hash"],
        revoked_before=row["revoked_before"],
    )


def session_arguments(of: Session) -> Arguments:
    """Return the first arguments of create_session, up to the request id."""
    return (
        of.user_id, of.id, of.generation, of.seed, of.client_id, of.device_label, of.audience,
        of.scope, of.amr, of.auth_time, of.created_at, of.refreshed_at, of.refresh_expires_at,
        of.expires_at,
    )  # fmt: skip


def revocation(row: asyncpg.Record) -> Revocation:
    """Read a row of revocations. A feed reads a million of them, so a kind is looked up."""
    return Revocation(
        _KINDS[row["kind"]],
        row["target"],
        row["expires_at"],
        row["issued_before"],
        row["xid"],
        row["disables"],
    )


def key(row: asyncpg.Record) -> StoredKey:
    """Read a row of signing_keys."""
    return StoredKey(
        kid=row["kid"],
        algorithm=row["algorithm"],
        encrypted_secret=row["encrypted_secret"],
        created_at=row["created_at"],
        activate_at=row["activate_at"],
        retire_at=row["retire_at"],
        remove_at=row["remove_at"],
        compromised_at=row["compromised_at"],
        changed_at=row["changed_at"],
    )


def key_arguments(of: StoredKey) -> Arguments:
    """Return the arguments of put_key."""
    return (
        of.kid, of.algorithm, of.encrypted_secret, of.created_at, of.activate_at, of.retire_at,
        of.remove_at, of.compromised_at,
    )  # fmt: skip
