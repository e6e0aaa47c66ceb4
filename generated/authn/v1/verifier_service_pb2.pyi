from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetJwksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetJwksResponse(_message.Message):
    __slots__ = ("jwks_json",)
    JWKS_JSON_FIELD_NUMBER: _ClassVar[int]
    jwks_json: str
    def __init__(self, jwks_json: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("cursor", "accept_segments")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    accept_segments: bool
    def __init__(self, cursor: _Optional[str] = ..., accept_segments: bool = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("key_set", "revocation_snapshot", "revocation", "heartbeat", "revocation_segment", "as_of", "cursor")
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    key_set: KeySet
    revocation_snapshot: RevocationSnapshot
    revocation: Revocation
    heartbeat: Heartbeat
    revocation_segment: RevocationSegment
    as_of: _timestamp_pb2.Timestamp
    cursor: str
    def __init__(self, key_set: _Optional[_Union[KeySet, _Mapping]] = ..., revocation_snapshot: _Optional[_Union[RevocationSnapshot, _Mapping]] = ..., revocation: _Optional[_Union[Revocation, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., revocation_segment: _Optional[_Union[RevocationSegment, _Mapping]] = ..., as_of: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., cursor: _Optional[str] = ...) -> None: ...

class KeySet(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[VerificationKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[VerificationKey, _Mapping]]] = ...) -> None: ...

class VerificationKey(_message.Message):
    __slots__ = ("kid", "algorithm", "public_jwk", "secret")
    KID_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_JWK_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    kid: str
    algorithm: str
    public_jwk: str
    secret: bytes
    def __init__(self, kid: _Optional[str] = ..., algorithm: _Optional[str] = ..., public_jwk: _Optional[str] = ..., secret: _Optional[bytes] = ...) -> None: ...

class RevocationSnapshot(_message.Message):
    __slots__ = ("revocations",)
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    revocations: _containers.RepeatedCompositeFieldContainer[Revocation]
    def __init__(self, revocations: _Optional[_Iterable[_Union[Revocation, _Mapping]]] = ...) -> None: ...

class RevocationSegment(_message.Message):
    __slots__ = ("packed", "others")
    PACKED_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    packed: _containers.RepeatedCompositeFieldContainer[PackedRevocations]
    others: _containers.RepeatedCompositeFieldContainer[Revocation]
    def __init__(self, packed: _Optional[_Iterable[_Union[PackedRevocations, _Mapping]]] = ..., others: _Optional[_Iterable[_Union[Revocation, _Mapping]]] = ...) -> None: ...

class PackedRevocations(_message.Message):
    __slots__ = ("expires_at", "token_ids", "session_ids")
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    expires_at: int
    token_ids: bytes
    session_ids: bytes
    def __init__(self, expires_at: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., session_ids: _Optional[bytes] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("token_id", "session_id", "subject", "all_tokens", "issued_before", "expires_at")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    ALL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ISSUED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    session_id: str
    subject: str
    all_tokens: AllTokens
    issued_before: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, token_id: _Optional[str] = ..., session_id: _Optional[str] = ..., subject: _Optional[str] = ..., all_tokens: _Optional[_Union[AllTokens, _Mapping]] = ..., issued_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AllTokens(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
