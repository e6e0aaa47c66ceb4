#!/usr/bin/env bash
# Installs what the chaos tests run against, below .tools/chaos (kept for the next run): Patroni from
# PyPI in a folder of its own, etcd, pgbouncer and libfaketime from Debian's packages, unpacked and not
# installed. PostgreSQL 15 is installed where root and apt-get are there.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly BUILD="$PWD/.tools/chaos" PYTHON="$PWD/.venv/bin/python"
readonly PACKAGES=(etcd-server pgbouncer libc-ares2 libfaketime)

if [[ ! -x /usr/lib/postgresql/15/bin/postgres ]]; then
  [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || {
    echo "chaos: PostgreSQL 15 is missing; install it (on Debian: apt-get install postgresql-15)" >&2
    exit 1
  }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-15
fi
mkdir -p "$BUILD"
if [[ ! -x "$BUILD/debian/usr/bin/etcd" || ! -x "$BUILD/debian/usr/sbin/pgbouncer" ||
  ! -d "$BUILD/debian/usr/share/doc/libfaketime" ]]; then
  echo "chaos: unpacking ${PACKAGES[*]}"
  rm -rf "$BUILD/debian" "$BUILD/packages"
  mkdir -p "$BUILD/packages"
  (cd "$BUILD/packages" && timeout 300 apt-get download -qq "${PACKAGES[@]}" 2>/dev/null)
  for package in "$BUILD"/packages/*.deb; do dpkg -x "$package" "$BUILD/debian"; done
fi
if [[ ! -e "$BUILD/patroni/patroni/__main__.py" ]]; then
  echo "chaos: installing Patroni"
  rm -rf "$BUILD/patroni"
  # For the system's Python: PostgreSQL's account may not reach the one of .venv.
  timeout 600 "$PYTHON" -m pip --python /usr/bin/python3 install --disable-pip-version-check \
    --quiet --root-user-action ignore --target "$BUILD/patroni" -r tests/chaos/requirements.txt
fi
