"""Builds the issuers that users come from, out of the configuration, and what keeps their keys."""

from datetime import timedelta

from auth_service.clock import Clock
from auth_service.config.loading import Settings
from auth_service.config.migrate_from import MIGRATE_FROM_FILE, MigrateFromSettings
from auth_service.core.old_issuers import OldIssuer
from auth_service.errors import ConfigError
from auth_service.tokens.foreign import Rules
from auth_service.tokens.foreign_keys import (
    ALGORITHMS,
    SHARED_ALGORITHMS,
    ForeignKey,
    TrustedKeys,
    shared_foreign_key,
)
from auth_service.trust.refresh import KeyRefresh
from auth_service.trust.sources import FileSource, Source, UrlSource

__all__ = ["old_issuers"]

# The claims tell the kinds of tokens apart. Other systems name access tokens by `typ` or do not.
_TYPES = frozenset({None, "JWT", "at+jwt"})
_ANY_LIFETIME = timedelta(days=36500)


def old_issuers(settings: Settings, clock: Clock) -> tuple[list[OldIssuer], list[KeyRefresh]]:
    """Return the issuers of the configuration, and what reads their keys.

    Raises ConfigError if their file is wrong.
    """
    issuers, refreshes = [], []
    for each in settings.migrate_from():
        source = _source(each)
        issuer = OldIssuer(
            name=each.issuer,
            rules=_rules(each),
            until=each.until,
            claims=each.accepted_claims,
            user_claim=each.user_claim,
            user_by_id=each.user == "id",
            prefix=each.prefix,
            names_itself=not each.without_iss,
            keys=TrustedKeys({} if source is None else None),
            shared_key=_shared_key(each),
        )
        issuers.append(issuer)
        if source is not None:
            refreshes.append(_refresh(each, issuer, source, clock))
    return issuers, refreshes


def _rules(each: MigrateFromSettings) -> Rules:
    return Rules(
        None if each.audience is None else frozenset([each.audience]),
        _ANY_LIFETIME,  # that of a refresh token may be
        each.max_age,
        algorithms=frozenset(_algorithms(each)),
        types=_TYPES,
        alone=False,
    )


def _algorithms(each: MigrateFromSettings) -> tuple[str, ...]:
    shared = each.secret_file is not None
    possible = SHARED_ALGORITHMS if shared else ALGORITHMS
    if others := sorted(set(each.algorithms or ()) - set(possible)):
        raise ConfigError(
            f"{MIGRATE_FROM_FILE}: {each.issuer} has the algorithm {others[0]!r}; with its kind of "
            f"key use some of {', '.join(possible)}"
        )
    return each.algorithms or (possible[:1] if shared else possible)


def _shared_key(each: MigrateFromSettings) -> ForeignKey | None:
    secret = each.shared_key()
    try:
        return None if secret is None else shared_foreign_key(secret, _algorithms(each))
    except ValueError as error:
        raise ConfigError(
            f"{MIGRATE_FROM_FILE}: secret_file of {each.issuer}: the key {error}"
        ) from None


def _source(each: MigrateFromSettings) -> Source | None:
    if each.jwks_file is not None:
        return FileSource(each.jwks_file)
    return None if each.jwks_url is None else UrlSource(each.jwks_url, each.ca_file)


def _refresh(
    each: MigrateFromSettings, issuer: OldIssuer, source: Source, clock: Clock
) -> KeyRefresh:
    return KeyRefresh(
        issuer.name,
        source,
        issuer.keys,
        uses=("sig",),
        interval=each.interval,
        stale_after=max(each.stale_after, 2 * each.interval + timedelta(seconds=30)),
        clock=clock,
    )
