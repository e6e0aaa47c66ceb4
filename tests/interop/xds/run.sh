#!/usr/bin/env bash
# Compares our messages for Envoy with Envoy's own: `make interop`. Envoy's are installed below
# .interop/, because two sets of generated code for googleapis do not get on in one environment.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
readonly SOURCE="$PWD/tests/interop/xds" VENV="$PWD/.interop/xds" PYTHON="$PWD/.venv/bin/python"

if ! cmp -s "$SOURCE/requirements.txt" "$VENV/.installed"; then
  echo "interop: installing Envoy's messages"
  rm -rf "$VENV"
  "$PYTHON" -m venv "$VENV"
  timeout 300 "$VENV/bin/python" -m pip --disable-pip-version-check --quiet install \
    --no-deps --require-hashes -r "$SOURCE/requirements.txt"
  cp "$SOURCE/requirements.txt" "$VENV/.installed"
fi
env -u PYTHONPATH "$VENV/bin/python" -W error "$SOURCE/compare.py" generated/authn/descriptor_set.binpb
