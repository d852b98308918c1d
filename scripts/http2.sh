#!/usr/bin/env bash
# http2.sh: real clients and servers of HTTP/2, past Egret and through it: both ways give the same.
#
#     scripts/http2.sh              h2spec, and three clients, against two servers; grpc-go
#     scripts/http2.sh --all        all clients and servers: minutes
#     scripts/http2.sh --timeout N  h2spec waits N seconds in a test (default 3)
#
# Debian's packages, and in ~/.cache/egret/http2 h2spec and the programs of tests/http2/go, are
# installed once; with --all Maven's of tests/http2/java, too. tests/http2/run.py says what is compared, and how. The program is $EGRET_BINARY;
# else one is built, optimised but without link-time optimisation.
#
# Needs Rust, Go 1.21 or newer, which fetches the version that go.mod names, and root: an ordinary
# user gets a user namespace, and installs the Debian packages first.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

HTTP2=$ROOT/tests/http2
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/egret/http2
H2SPEC=github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible

main() {
    case ${1:-} in -h | --help) print_header "$0" && exit 0 ;; esac
    need_packages python3=python3 ip=iproute2 nft=nftables curl=curl nghttp=nghttp2-client \
        nghttpd=nghttp2-server
    mkdir -p "$CACHE/bin"
    build_go
    if [[ " $* " == *" --all "* ]]; then
        need_packages nghttpx=nghttp2-proxy lighttpd=lighttpd h2o=h2o node=nodejs \
            javac=openjdk-17-jdk-headless mvn=maven
        build_java
    fi
    against_real_peers "$HTTP2" "$CACHE" "$@"
}

build_go() {
    need_go
    say "building h2spec and Go's peers (the first time takes a minute)"
    [[ -x $CACHE/bin/h2spec ]] || CGO_ENABLED=0 GOBIN=$CACHE/bin go install "$H2SPEC" ||
        die "go could not build h2spec"
    (cd "$HTTP2/go" && go build -trimpath -o "$CACHE/bin/peers" .) || die "go could not build them"
}

build_java() {
    if ! cmp --silent "$HTTP2/java/pom.xml" "$CACHE/java/pom.xml"; then
        say "fetching the JVM's peers"
        rm -rf "$CACHE/java"
        mvn --quiet --batch-mode --file "$HTTP2/java/pom.xml" dependency:copy-dependencies \
            -DoutputDirectory="$CACHE/java/jars" || die "mvn could not fetch them"
        cp "$HTTP2/java/pom.xml" "$CACHE/java/pom.xml"
    fi
    javac -cp "$CACHE/java/jars/*" -d "$CACHE/java/classes" "$HTTP2/java/Peers.java" ||
        die "javac could not compile them"
}

main "$@"
