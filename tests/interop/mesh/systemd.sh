#!/usr/bin/env bash
# Verifies the unit file $1 as it is, its executable stood in for: `systemd-analyze verify` wants one,
# and looks below the root that it is given. Says so and passes where there is no systemd-analyze.
set -euo pipefail
unit=${1:?usage: systemd.sh UNIT}
command -v systemd-analyze >/dev/null || {
  echo "interop: no systemd-analyze here; $unit is not verified" >&2
  exit 0
}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{opt/auth-service/bin,etc/systemd/system,usr/lib/systemd}
cp -R /usr/lib/systemd/system "$root/usr/lib/systemd/"
cp "$unit" "$root/etc/systemd/system/"
printf '#!/bin/sh\n' >"$root/opt/auth-service/bin/auth-service"
chmod +x "$root/opt/auth-service/bin/auth-service"
name=$(basename "$unit")
said=$(systemd-analyze verify --man=no --root="$root" "$name" 2>&1) || { echo "$said" >&2; exit 1; }
[[ $said != *"$name"* ]] || { echo "$said" >&2; exit 1; }
echo "ok - systemd: systemd-analyze verify has nothing to say about the unit"
systemd-analyze security --offline=true --threshold=20 "$unit" >/dev/null
echo "ok - systemd: its exposure is 2.0 of 10 or less"
