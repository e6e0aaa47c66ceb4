from authn.v1 import error_reason_pb2 as _error_reason_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InactiveReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INACTIVE_REASON_UNSPECIFIED: _ClassVar[InactiveReason]
    INACTIVE_REASON_MALFORMED: _ClassVar[InactiveReason]
    INACTIVE_REASON_BAD_SIGNATURE: _ClassVar[InactiveReason]
    INACTIVE_REASON_UNKNOWN_KEY: _ClassVar[InactiveReason]
    INACTIVE_REASON_EXPIRED: _ClassVar[InactiveReason]
    INACTIVE_REASON_NOT_YET_VALID: _ClassVar[InactiveReason]
    INACTIVE_REASON_WRONG_ISSUER: _ClassVar[InactiveReason]
    INACTIVE_REASON_WRONG_AUDIENCE: _ClassVar[InactiveReason]
    INACTIVE_REASON_WRONG_TYPE: _ClassVar[InactiveReason]
    INACTIVE_REASON_TOKEN_REVOKED: _ClassVar[InactiveReason]
    INACTIVE_REASON_SESSION_REVOKED: _ClassVar[InactiveReason]
    INACTIVE_REASON_USER_REVOKED: _ClassVar[InactiveReason]
    INACTIVE_REASON_INSUFFICIENT_SCOPE: _ClassVar[InactiveReason]
    INACTIVE_REASON_INSUFFICIENT_ROLE: _ClassVar[InactiveReason]
    INACTIVE_REASON_WRONG_CERTIFICATE: _ClassVar[InactiveReason]
    INACTIVE_REASON_INSUFFICIENT_USER_AUTHENTICATION: _ClassVar[InactiveReason]

class FactorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FACTOR_KIND_UNSPECIFIED: _ClassVar[FactorKind]
    FACTOR_KIND_TOTP: _ClassVar[FactorKind]
    FACTOR_KIND_RECOVERY_CODE: _ClassVar[FactorKind]
    FACTOR_KIND_PASSKEY: _ClassVar[FactorKind]
INACTIVE_REASON_UNSPECIFIED: InactiveReason
INACTIVE_REASON_MALFORMED: InactiveReason
INACTIVE_REASON_BAD_SIGNATURE: InactiveReason
INACTIVE_REASON_UNKNOWN_KEY: InactiveReason
INACTIVE_REASON_EXPIRED: InactiveReason
INACTIVE_REASON_NOT_YET_VALID: InactiveReason
INACTIVE_REASON_WRONG_ISSUER: InactiveReason
INACTIVE_REASON_WRONG_AUDIENCE: InactiveReason
INACTIVE_REASON_WRONG_TYPE: InactiveReason
INACTIVE_REASON_TOKEN_REVOKED: InactiveReason
INACTIVE_REASON_SESSION_REVOKED: InactiveReason
INACTIVE_REASON_USER_REVOKED: InactiveReason
INACTIVE_REASON_INSUFFICIENT_SCOPE: InactiveReason
INACTIVE_REASON_INSUFFICIENT_ROLE: InactiveReason
INACTIVE_REASON_WRONG_CERTIFICATE: InactiveReason
INACTIVE_REASON_INSUFFICIENT_USER_AUTHENTICATION: InactiveReason
FACTOR_KIND_UNSPECIFIED: FactorKind
FACTOR_KIND_TOTP: FactorKind
FACTOR_KIND_RECOVERY_CODE: FactorKind
FACTOR_KIND_PASSKEY: FactorKind

class PasswordCredentials(_message.Message):
    __slots__ = ("identifier", "password", "new_password")
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    NEW_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    identifier: str
    password: str
    new_password: str
    def __init__(self, identifier: _Optional[str] = ..., password: _Optional[str] = ..., new_password: _Optional[str] = ...) -> None: ...

class ClientCredentials(_message.Message):
    __slots__ = ("client_id", "client_secret")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    client_secret: str
    def __init__(self, client_id: _Optional[str] = ..., client_secret: _Optional[str] = ...) -> None: ...

class WorkloadCredentials(_message.Message):
    __slots__ = ("token", "client_id")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    token: str
    client_id: str
    def __init__(self, token: _Optional[str] = ..., client_id: _Optional[str] = ...) -> None: ...

class FactorCredentials(_message.Message):
    __slots__ = ("challenge_token", "totp_code", "recovery_code", "passkey_response", "new_password")
    CHALLENGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTP_CODE_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_CODE_FIELD_NUMBER: _ClassVar[int]
    PASSKEY_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    NEW_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    challenge_token: str
    totp_code: str
    recovery_code: str
    passkey_response: str
    new_password: str
    def __init__(self, challenge_token: _Optional[str] = ..., totp_code: _Optional[str] = ..., recovery_code: _Optional[str] = ..., passkey_response: _Optional[str] = ..., new_password: _Optional[str] = ...) -> None: ...

class TotpEnrollment(_message.Message):
    __slots__ = ("secret", "uri")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    secret: str
    uri: str
    def __init__(self, secret: _Optional[str] = ..., uri: _Optional[str] = ...) -> None: ...

class LoginChallenge(_message.Message):
    __slots__ = ("challenge_token", "factors", "expires_at", "enrollment", "passkey_options")
    CHALLENGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ENROLLMENT_FIELD_NUMBER: _ClassVar[int]
    PASSKEY_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    challenge_token: str
    factors: _containers.RepeatedScalarFieldContainer[FactorKind]
    expires_at: _timestamp_pb2.Timestamp
    enrollment: TotpEnrollment
    passkey_options: str
    def __init__(self, challenge_token: _Optional[str] = ..., factors: _Optional[_Iterable[_Union[FactorKind, str]]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., enrollment: _Optional[_Union[TotpEnrollment, _Mapping]] = ..., passkey_options: _Optional[str] = ...) -> None: ...

class MigrateCredentials(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class LoginRequest(_message.Message):
    __slots__ = ("password", "client", "workload", "factor", "migrate", "audience", "scope", "client_id", "device_label", "request_id", "session_refresh_token", "device_token")
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    MIGRATE_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_LABEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    password: PasswordCredentials
    client: ClientCredentials
    workload: WorkloadCredentials
    factor: FactorCredentials
    migrate: MigrateCredentials
    audience: _containers.RepeatedScalarFieldContainer[str]
    scope: _containers.RepeatedScalarFieldContainer[str]
    client_id: str
    device_label: str
    request_id: str
    session_refresh_token: str
    device_token: str
    def __init__(self, password: _Optional[_Union[PasswordCredentials, _Mapping]] = ..., client: _Optional[_Union[ClientCredentials, _Mapping]] = ..., workload: _Optional[_Union[WorkloadCredentials, _Mapping]] = ..., factor: _Optional[_Union[FactorCredentials, _Mapping]] = ..., migrate: _Optional[_Union[MigrateCredentials, _Mapping]] = ..., audience: _Optional[_Iterable[str]] = ..., scope: _Optional[_Iterable[str]] = ..., client_id: _Optional[str] = ..., device_label: _Optional[str] = ..., request_id: _Optional[str] = ..., session_refresh_token: _Optional[str] = ..., device_token: _Optional[str] = ...) -> None: ...

class TokenPair(_message.Message):
    __slots__ = ("access_token", "token_type", "access_expires_at", "refresh_token", "refresh_expires_at", "scope", "session_id")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    ACCESS_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REFRESH_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    token_type: str
    access_expires_at: _timestamp_pb2.Timestamp
    refresh_token: str
    refresh_expires_at: _timestamp_pb2.Timestamp
    scope: _containers.RepeatedScalarFieldContainer[str]
    session_id: str
    def __init__(self, access_token: _Optional[str] = ..., token_type: _Optional[str] = ..., access_expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., refresh_token: _Optional[str] = ..., refresh_expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., scope: _Optional[_Iterable[str]] = ..., session_id: _Optional[str] = ...) -> None: ...

class LoginResponse(_message.Message):
    __slots__ = ("tokens", "challenge", "device_token")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tokens: TokenPair
    challenge: LoginChallenge
    device_token: str
    def __init__(self, tokens: _Optional[_Union[TokenPair, _Mapping]] = ..., challenge: _Optional[_Union[LoginChallenge, _Mapping]] = ..., device_token: _Optional[str] = ...) -> None: ...

class RefreshRequest(_message.Message):
    __slots__ = ("refresh_token", "scope", "request_id", "audience")
    REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    refresh_token: str
    scope: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    audience: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, refresh_token: _Optional[str] = ..., scope: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., audience: _Optional[_Iterable[str]] = ...) -> None: ...

class RefreshResponse(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: TokenPair
    def __init__(self, tokens: _Optional[_Union[TokenPair, _Mapping]] = ...) -> None: ...

class AllSessions(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("refresh_token", "access_token", "session_id", "all_sessions")
    REFRESH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ALL_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    refresh_token: str
    access_token: str
    session_id: str
    all_sessions: AllSessions
    def __init__(self, refresh_token: _Optional[str] = ..., access_token: _Optional[str] = ..., session_id: _Optional[str] = ..., all_sessions: _Optional[_Union[AllSessions, _Mapping]] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ValidateRequest(_message.Message):
    __slots__ = ("access_token", "audience", "required_scope", "required_roles", "max_staleness", "certificate_thumbprint", "max_age", "acr_values")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_SCOPE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_ROLES_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    ACR_VALUES_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    audience: str
    required_scope: _containers.RepeatedScalarFieldContainer[str]
    required_roles: _containers.RepeatedScalarFieldContainer[str]
    max_staleness: _duration_pb2.Duration
    certificate_thumbprint: str
    max_age: _duration_pb2.Duration
    acr_values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, access_token: _Optional[str] = ..., audience: _Optional[str] = ..., required_scope: _Optional[_Iterable[str]] = ..., required_roles: _Optional[_Iterable[str]] = ..., max_staleness: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., certificate_thumbprint: _Optional[str] = ..., max_age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., acr_values: _Optional[_Iterable[str]] = ...) -> None: ...

class Claims(_message.Message):
    __slots__ = ("issuer", "subject", "audience", "expires_at", "issued_at", "token_id", "session_id", "client_id", "scope", "roles", "auth_time", "authentication_methods", "actor", "certificate_thumbprint", "acr")
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    AUTH_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATION_METHODS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    ACR_FIELD_NUMBER: _ClassVar[int]
    issuer: str
    subject: str
    audience: _containers.RepeatedScalarFieldContainer[str]
    expires_at: _timestamp_pb2.Timestamp
    issued_at: _timestamp_pb2.Timestamp
    token_id: str
    session_id: str
    client_id: str
    scope: _containers.RepeatedScalarFieldContainer[str]
    roles: _containers.RepeatedScalarFieldContainer[str]
    auth_time: _timestamp_pb2.Timestamp
    authentication_methods: _containers.RepeatedScalarFieldContainer[str]
    actor: Actor
    certificate_thumbprint: str
    acr: str
    def __init__(self, issuer: _Optional[str] = ..., subject: _Optional[str] = ..., audience: _Optional[_Iterable[str]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., issued_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., token_id: _Optional[str] = ..., session_id: _Optional[str] = ..., client_id: _Optional[str] = ..., scope: _Optional[_Iterable[str]] = ..., roles: _Optional[_Iterable[str]] = ..., auth_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., authentication_methods: _Optional[_Iterable[str]] = ..., actor: _Optional[_Union[Actor, _Mapping]] = ..., certificate_thumbprint: _Optional[str] = ..., acr: _Optional[str] = ...) -> None: ...

class Actor(_message.Message):
    __slots__ = ("subject", "actor")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    subject: str
    actor: Actor
    def __init__(self, subject: _Optional[str] = ..., actor: _Optional[_Union[Actor, _Mapping]] = ...) -> None: ...

class ValidateResponse(_message.Message):
    __slots__ = ("active", "inactive_reason", "claims", "revocations_as_of", "unmet")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    INACTIVE_REASON_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_AS_OF_FIELD_NUMBER: _ClassVar[int]
    UNMET_FIELD_NUMBER: _ClassVar[int]
    active: bool
    inactive_reason: InactiveReason
    claims: Claims
    revocations_as_of: _timestamp_pb2.Timestamp
    unmet: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, active: bool = ..., inactive_reason: _Optional[_Union[InactiveReason, str]] = ..., claims: _Optional[_Union[Claims, _Mapping]] = ..., revocations_as_of: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., unmet: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchValidateRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ValidateRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ValidateRequest, _Mapping]]] = ...) -> None: ...

class BatchValidateResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ValidateResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[ValidateResponse, _Mapping]]] = ...) -> None: ...

class ExchangeRequest(_message.Message):
    __slots__ = ("subject_token", "audience", "scope", "lifetime", "certificate_thumbprint")
    SUBJECT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_THUMBPRINT_FIELD_NUMBER: _ClassVar[int]
    subject_token: str
    audience: str
    scope: _containers.RepeatedScalarFieldContainer[str]
    lifetime: _duration_pb2.Duration
    certificate_thumbprint: str
    def __init__(self, subject_token: _Optional[str] = ..., audience: _Optional[str] = ..., scope: _Optional[_Iterable[str]] = ..., lifetime: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., certificate_thumbprint: _Optional[str] = ...) -> None: ...

class ExchangeResponse(_message.Message):
    __slots__ = ("access_token", "token_type", "expires_at", "scope")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    token_type: str
    expires_at: _timestamp_pb2.Timestamp
    scope: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, access_token: _Optional[str] = ..., token_type: _Optional[str] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., scope: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchExchangeRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ExchangeRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ExchangeRequest, _Mapping]]] = ...) -> None: ...

class BatchExchangeResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ExchangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ExchangeResult, _Mapping]]] = ...) -> None: ...

class ExchangeResult(_message.Message):
    __slots__ = ("token", "error")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    token: ExchangeResponse
    error: ExchangeError
    def __init__(self, token: _Optional[_Union[ExchangeResponse, _Mapping]] = ..., error: _Optional[_Union[ExchangeError, _Mapping]] = ...) -> None: ...

class ExchangeError(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: _error_reason_pb2.ErrorReason
    message: str
    def __init__(self, reason: _Optional[_Union[_error_reason_pb2.ErrorReason, str]] = ..., message: _Optional[str] = ...) -> None: ...
