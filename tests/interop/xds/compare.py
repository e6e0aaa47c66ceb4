"""Compares the messages of authn.envoy.v1 with those of Envoy that they stand for.

    compare.py DESCRIPTOR_SET

Both descriptors of Check are walked side by side, from request and response down: what a field of
ours is called, its number, type, cardinality and oneof must be what Envoy's field is, and no
message of ours may be left over. Then the comparison is put to the test itself: each field and enum
value in turn gets another number, which has to be noticed. Prints `ok - …` for each promise kept.
"""

# ruff: noqa: T201 - printing is what this program is for
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

PACKAGE = "authn.envoy.v1"
FILE = "authn/envoy/v1/check.proto"
CHECK = external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"].methods_by_name["Check"]
PAIRS = {"CheckRequest": CHECK.input_type, "CheckResponse": CHECK.output_type}
ELSEWHERE = 100_000  # a number that no field and no value has

Types = {
    value.number: name.removeprefix("TYPE_").lower()
    for name, value in descriptor_pb2.FieldDescriptorProto.Type.DESCRIPTOR.values_by_name.items()
}


class MismatchError(Exception):
    """A message of ours is not what Envoy reads and writes."""


class Comparison:
    """One walk over both; `done` tells what was compared, by the name of ours."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}

    def messages(self, ours: Any, theirs: Any) -> None:
        """Compare two messages and all that they hold. Raises MismatchError."""
        if ours.full_name == theirs.full_name:  # google.protobuf.Any, on both sides
            return
        if (known := self.done.get(ours.full_name)) is not None:
            if known != theirs.full_name:
                raise MismatchError(f"{ours.full_name} stands for {known} and {theirs.full_name}")
            return
        self.done[ours.full_name] = theirs.full_name
        if ours.GetOptions().map_entry != theirs.GetOptions().map_entry:
            raise MismatchError(f"{ours.full_name} and {theirs.full_name}: only one is a map")
        for field in ours.fields:
            self._field(field, theirs.fields_by_name.get(field.name), theirs.full_name)

    def _field(self, ours: Any, theirs: Any, message: str) -> None:
        if theirs is None:
            raise MismatchError(f"{ours.full_name}: {message} has no such field")
        for what in (number, kind, cardinality, oneof):
            seen, wanted = what(ours), what(theirs)
            if seen != wanted and (seen, wanted) != ("int32", "enum"):  # the same on the wire
                raise MismatchError(
                    f"{ours.full_name}: {what.__name__} {seen}, but {wanted} in {theirs.full_name}"
                )
        if ours.message_type is not None:
            self.messages(ours.message_type, theirs.message_type)
        if ours.enum_type is not None:
            self._enum(ours.enum_type, theirs.enum_type)

    def _enum(self, ours: Any, theirs: Any) -> None:
        """Names may have our prefix, and zero may be called unspecified; numbers are the same."""
        self.done[ours.full_name] = theirs.full_name
        for value in ours.values:
            other = theirs.values_by_number.get(value.number)
            if other is None or (value.number and not value.name.endswith(f"_{other.name}")):
                raise MismatchError(
                    f"{ours.full_name}: {value.name} = {value.number}, but that is "
                    f"{other and other.name} in {theirs.full_name}"
                )


def number(field: Any) -> int:
    return int(field.number)


def kind(field: Any) -> str:
    return Types[field.type]


def cardinality(field: Any) -> str:
    return "repeated" if field.is_repeated else "singular"


def oneof(field: Any) -> str:
    return "none" if field.containing_oneof is None else str(field.containing_oneof.name)


def compare(files: Any) -> Comparison:
    """Compare everything in the package. Raises MismatchError."""
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    comparison = Comparison()
    for name, theirs in PAIRS.items():
        comparison.messages(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"), theirs)
    there = pool.FindFileByName(FILE)
    names = {each.full_name for each in _all_types(there.message_types_by_name.values())}
    names |= {each.full_name for each in there.enum_types_by_name.values()}
    if left := names - comparison.done.keys():
        raise MismatchError(f"neither the request nor the response holds {', '.join(sorted(left))}")
    return comparison


def _all_types(messages: Any) -> Iterator[Any]:
    for message in messages:
        yield message
        yield from message.enum_types
        yield from _all_types(message.nested_types)


def notice_changes(files: Any) -> int:
    """Give each number in turn another value; raises MismatchError where that goes unnoticed."""
    changed = 0
    for item in list(_numbers(next(file for file in files.file if file.name == FILE))):
        before, item.number = item.number, ELSEWHERE
        try:
            compare(files)
        except MismatchError:
            changed += 1
        else:
            raise MismatchError(f"a changed number of {item.name} goes unnoticed")
        finally:
            item.number = before
    return changed


def _numbers(scope: Any) -> Iterator[Any]:
    """Yield every field and enum value, but the first of each enum, which has to be zero."""
    for enum in scope.enum_type:
        yield from enum.value[1:]
    for message in getattr(scope, "message_type", None) or getattr(scope, "nested_type", ()):
        if not message.options.map_entry:  # whose numbers protobuf itself insists on
            yield from message.field
            yield from _numbers(message)


def main() -> int:
    """Compare; the exit code is 0, or 1 with what differs."""
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())
    try:
        comparison = compare(files)
        for ours, theirs in comparison.done.items():
            print(f"ok - {ours} is {theirs} on the wire")
        changed = notice_changes(files)
        print(f"ok - a number changed in any of {changed} fields and values is noticed")
    except MismatchError as error:
        print(f"not ok - {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
