"""Builds the issuers of workload tokens from the configuration, and what keeps their keys."""

from datetime import timedelta

from auth_service.clock import Clock
from auth_service.config.issuers import IssuerSettings, MappingSettings
from auth_service.config.loading import Settings
from auth_service.core.workload_registry import workload_mapping
from auth_service.core.workloads import Issuer, IssuerKind
from auth_service.errors import ConfigError, InvalidArgument
from auth_service.models import WorkloadMapping
from auth_service.tokens.foreign import Rules
from auth_service.tokens.foreign_keys import ALGORITHMS, TrustedKeys
from auth_service.trust.refresh import KeyRefresh
from auth_service.trust.sources import FileSource, Source, UrlSource, WorkloadApiSource

__all__ = ["configured_mappings", "workload_issuers"]

# JWT-SVID section 2.1 does not list EdDSA.
_SPIFFE_ALGORITHMS = frozenset(ALGORITHMS) - {"EdDSA"}
# Of a bundle's keys; the Workload API leaves `use` out (SPIFFE Bundle section 4.2.2).
_SPIFFE_USES, _USES = ("jwt-svid",), ("sig",)


def workload_issuers(settings: Settings, clock: Clock) -> tuple[list[Issuer], list[KeyRefresh]]:
    """Return the issuers of the configuration, and what reads their keys.

    Raises ConfigError if the file of issuers is wrong.
    """
    issuers, refreshes = [], []
    for each in settings.workload_issuers():
        source = _source(each)
        issuer = Issuer(
            name=each.name,
            kind=IssuerKind(each.kind),
            rules=_rules(each, settings.issuer),
            keys=TrustedKeys({} if source is None else None),
            mappings={mapping.subject: _mapping(each, mapping) for mapping in each.account},
            certificates=each.mtls,
        )
        issuers.append(issuer)
        if source is not None:
            refreshes.append(_refresh(each, issuer, source, clock))
    return issuers, refreshes


def configured_mappings(settings: Settings) -> list[WorkloadMapping]:
    """Return the mappings of the configuration. Raises ConfigError."""
    issuers = settings.workload_issuers()
    return [_mapping(each, mapping) for each in issuers for mapping in each.account]


def _refresh(each: IssuerSettings, issuer: Issuer, source: Source, clock: Clock) -> KeyRefresh:
    return KeyRefresh(
        issuer.name,
        source,
        issuer.keys,
        uses=_SPIFFE_USES if issuer.kind is IssuerKind.SPIFFE else _USES,
        interval=each.interval,
        stale_after=max(each.stale_after, 2 * each.interval + timedelta(seconds=30)),
        clock=clock,
    )


def _rules(each: IssuerSettings, audience: str) -> Rules:
    audiences = frozenset([each.audience or audience])
    if each.kind == "spiffe":
        return Rules(
            audiences,
            each.max_lifetime,
            each.max_age,
            algorithms=_SPIFFE_ALGORITHMS,
            types=frozenset({None, "JWT", "JOSE"}),  # JWT-SVID section 2.3
            extra_header=frozenset(),
            requires_issued_at=False,
        )
    return Rules(audiences, each.max_lifetime, each.max_age)


def _source(each: IssuerSettings) -> Source | None:
    if each.jwks_file is not None:
        return FileSource(each.jwks_file)
    if each.jwks_url is not None:
        return UrlSource(each.jwks_url, each.ca_file, each.bearer_token_file)
    return None if each.workload_api is None else WorkloadApiSource(each.workload_api, each.name)


def _mapping(issuer: IssuerSettings, given: MappingSettings) -> WorkloadMapping:
    try:
        return workload_mapping(
            issuer.name,
            given.subject,
            given.client_id,
            claims=given.claims,
            allow_default_account=given.allow_default_account,
        )
    except InvalidArgument as error:
        raise ConfigError(
            f"AUTH_WORKLOAD_ISSUERS_FILE: the account {given.subject!r} of {issuer.name}: "
            f"{error.text}"
        ) from error
