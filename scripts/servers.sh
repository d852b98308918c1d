#!/usr/bin/env bash
# servers.sh: real HTTP servers behind Egret: what they read must be what Egret has allowed.
#
#     scripts/servers.sh [OPTION...]            the servers that install within two minutes
#
#     --seed N          draw the inputs of this seed (default: any; it is printed)
#     --inputs N        draw so many, for each server (default 2000)
#     --input N         try only this input: with --seed, what a failure prints
#     --peers A,B       try only these servers
#     --direct          past Egret: which inputs make which servers read a request that must not be
#                       sent. It fails if a server reads all of them well
#
# Debian's packages, and in ~/.cache/egret/servers Python's (tests/servers/requirements.txt) and Go's
# (tests/servers/go/go.mod), are installed once. tests/servers/run.py says what is tried, and how.
# The program is $EGRET_BINARY; else one is built, optimised but without link-time optimisation.
#
# Needs Rust, Go 1.21 or newer, which fetches the version that go.mod names, and root: an ordinary
# user gets a user namespace, and installs the Debian packages first.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

SERVERS=$ROOT/tests/servers
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/egret/servers

main() {
    case ${1:-} in -h | --help) print_header "$0" && exit 0 ;; esac
    need_packages python3=python3 ip=iproute2 nft=nftables nginx=nginx haproxy=haproxy \
        lighttpd=lighttpd h2o=h2o varnishd=varnish
    mkdir -p "$CACHE"
    install_python
    build_go
    if [[ -z ${EGRET_BINARY:-} ]]; then
        build_measured_programs
        EGRET_BINARY=$MEASURED/egret
    fi
    exec "$SCRIPTS/lab.sh" enter python3 -B "$SERVERS/run.py" \
        --egret "$(readlink -f "$EGRET_BINARY")" --cache "$CACHE" "$@"
}

# A virtual environment, made again when what it must hold has changed.
install_python() {
    local wanted=$SERVERS/requirements.txt
    cmp --silent "$wanted" "$CACHE/venv/requirements.txt" && return 0
    python3 -c 'import ensurepip' 2>/dev/null || install_quietly python3-venv
    say "installing Python's servers"
    rm -rf "$CACHE/venv"
    python3 -m venv "$CACHE/venv"
    "$CACHE/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted" ||
        die "pip could not install $wanted"
    cp "$wanted" "$CACHE/venv/requirements.txt"
}

build_go() {
    have go || die "go is missing; install Go 1.21 or newer as https://go.dev/doc/install says"
    say "building Go's servers (the first time takes a minute)"
    (cd "$SERVERS/go" && go build -trimpath -o "$CACHE/peers" .) || die "go could not build them"
}

main "$@"
