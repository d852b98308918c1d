# shellcheck shell=bash
# What the other scripts share: messages, tools and packages, the user namespace, bounded waiting.
# Sourced, never run; it changes nothing by itself.

# say TEXT...: one line for the reader.
say() {
    printf '%s\n' "$*"
}

# die TEXT...: the error, which names the fix, and exit 1.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# usage_error TEXT...: a wrong command line, exit 64.
usage_error() {
    printf '%s: error: %s (see %s --help)\n' "${0##*/}" "$*" "$0" >&2
    exit 64
}

# print_header FILE: the comment at the head of a script, which is its help.
print_header() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"
}

# have TOOL: whether it can be run. Debian keeps many of ours outside an ordinary user's PATH.
have() {
    command -v "$1" >/dev/null 2>&1
}

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# need_packages TOOL=PACKAGE...: install the packages whose tool is missing (as root on Debian),
# else name them and stop. The services that packages bring along are not started.
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        have "${pair%%=*}" || missing+=("${pair#*=}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || ! have apt-get; then
        die "missing tools; install them with: apt-get install ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    install_quietly "${missing[@]}" ||
        die "apt-get could not install ${missing[*]}; its messages are above"
    for pair in "$@"; do
        have "${pair%%=*}" || die "${pair%%=*} is still missing after installing ${pair#*=}"
    done
}

# install_quietly PACKAGE...: apt-get, shown only when it fails.
install_quietly() {
    local log policy=/usr/sbin/policy-rc.d made_policy=0 code=0
    log=$(mktemp)
    # Debian's own switch against starting services on installation.
    if [[ ! -e $policy ]]; then
        made_policy=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    {
        apt-get update &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
    } >"$log" 2>&1 || code=$?
    ((made_policy)) && rm -f "$policy"
    ((code)) && cat "$log" >&2
    rm -f "$log"
    return "$code"
}

# become_root SCRIPT ARG...: go on as root. A user without root gets the script run again as the
# root of a new user, network and mount namespace, where /run is private, so that `ip netns`
# works; everything made there vanishes with the last process in it.
become_root() {
    ((EUID == 0)) && return 0
    [[ -z ${EGRET_USER_NAMESPACE:-} ]] || die "not root inside the user namespace"
    have unshare || die "unshare is missing; install the package util-linux, or run this as root"
    unshare --user --map-root-user true 2>/dev/null ||
        die "this kernel denies user namespaces to ordinary users; run this as root" \
            "(or allow them: sysctl kernel.unprivileged_userns_clone=1 or" \
            "kernel.apparmor_restrict_unprivileged_userns=0)"
    EGRET_USER_NAMESPACE=1 exec unshare --user --map-root-user --net --mount -- \
        bash -c 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' bash "$@"
}

# wait_until SECONDS WHAT COMMAND...: run the command until it succeeds; stop with an error that
# names WHAT when that takes longer.
wait_until() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@"; do
        ((SECONDS < deadline)) || {
            printf '%s: error: waited %s s for %s\n' "${0##*/}" "$seconds" "$what" >&2
            return 1
        }
        sleep 0.05
    done
}

# find_or_build_egret: EGRET_BINARY becomes the absolute path of the program to run; a release build
# of the repository in ROOT is made unless it is set.
find_or_build_egret() {
    if [[ -z ${EGRET_BINARY:-} ]]; then
        have cargo || die "cargo is missing; install Rust as https://rustup.rs says"
        have cc || need_packages cc=gcc
        say "building the release binary (the first time takes some minutes)"
        cargo build --quiet --release --locked --bin egret --manifest-path "$ROOT/Cargo.toml" ||
            die "the build failed; its messages are above"
        EGRET_BINARY=${CARGO_TARGET_DIR:-$ROOT/target}/release/egret
    fi
    [[ -x $EGRET_BINARY ]] || die "there is no program '$EGRET_BINARY'"
    EGRET_BINARY=$(readlink -f "$EGRET_BINARY")
    export EGRET_BINARY
}

# build_measured_programs: what is measured on any machine, optimised but without the time that
# link-time optimisation takes. MEASURED becomes the directory of egret, loadgen and count. Always
# these three: cargo joins the features of what it builds together, and would build the
# dependencies again for another choice.
build_measured_programs() {
    have cargo || die "cargo is missing; install Rust as https://rustup.rs says"
    have cc || need_packages cc=gcc
    cargo build --quiet --locked --profile count --bins --package egret --package egret-loadgen \
        --package egret-micro --manifest-path "$ROOT/Cargo.toml" ||
        die "the build failed; its messages are above"
    MEASURED=$(readlink -f "${CARGO_TARGET_DIR:-$ROOT/target}/count")
    export MEASURED
}

# against_real_peers FOLDER CACHE ARGUMENT...: FOLDER/run.py in the lab of the calling script's
# SCRIPTS, which does not return. The program is $EGRET_BINARY, else one that is built as for
# measurements; the real peers are installed in CACHE.
against_real_peers() {
    local folder=$1 cache=$2
    shift 2
    if [[ -z ${EGRET_BINARY:-} ]]; then
        build_measured_programs
        EGRET_BINARY=$MEASURED/egret
    fi
    exec "$SCRIPTS/lab.sh" enter python3 -B "$folder/run.py" \
        --egret "$(readlink -f "$EGRET_BINARY")" --cache "$cache" "$@"
}

# need_go: a Go of 1.21 or newer, which fetches by itself the version that a go.mod names. Where there
# is none, the module proxy's is unpacked in ~/.cache/egret/go (golang.org/toolchain, which is how Go
# fetches it): Debian's is too old.
need_go() {
    local version=go1.26.0 cache=${XDG_CACHE_HOME:-$HOME/.cache}/egret/go machine module
    if have go && [[ $(GOTOOLCHAIN=local go version) =~ go1\.([0-9]+) ]] &&
        ((BASH_REMATCH[1] >= 21)); then
        return
    fi
    if [[ ! -x $cache/bin/go ]]; then
        case $(uname -m) in
            x86_64) machine=amd64 ;;
            aarch64) machine=arm64 ;;
            *) die "go is missing; install Go 1.21 or newer as https://go.dev/doc/install says" ;;
        esac
        need_packages curl=curl python3=python3
        module=golang.org/toolchain@v0.0.1-$version.linux-$machine
        say "fetching $version"
        mkdir -p "$cache"
        curl --fail --silent --show-error --location --output "$cache/go.zip" \
            "https://proxy.golang.org/${module/@//@v/}.zip" || die "the Go proxy does not answer"
        python3 -m zipfile -e "$cache/go.zip" "$cache/unpacked"
        cp -r "$cache/unpacked/$module/." "$cache"
        rm -rf "$cache/unpacked" "$cache/go.zip"
        chmod +x "$cache"/bin/* "$cache"/pkg/tool/*/*
    fi
    PATH=$cache/bin:$PATH
}
