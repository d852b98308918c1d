#!/usr/bin/env bash
# test.sh: the gate. What CI runs and a newcomer runs; every section must pass.
#
#     scripts/test.sh                everything
#     scripts/test.sh --fast         format, clippy, unit, tidy and demo: what finds most mistakes
#     scripts/test.sh SECTION...     these sections, in the gate's order
#     scripts/test.sh --list         the names of the sections, and what they are
#
# All sections run, even after one has failed; the last lines hold the time of each and the totals.
# With --fast the demo runs the tests' build of Egret, else an optimised one.
#
# Cargo builds twice: for tests, and optimised without link-time optimisation (profile `count`) for
# all that measures and for the demo. The counts of instructions (perf/instructions.sh) have bounds;
# the ratio of the performance suite (perf/run.sh, at its smallest) is shown, not judged.
#
# Needs Rust with rustfmt and clippy, a C compiler and the Debian packages named below. As root
# what is missing is installed; else it is named, and the gate fails. Without root the sections that
# need namespaces run in a user namespace. Nothing is skipped.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

# Each is run by the function section_NAME, with _ for -.
SECTIONS=(format clippy shellcheck build unit tidy simulation integration doc netns baselines
    optimised servers loadgen instructions demo perf-unit perf)
FAST=(format clippy unit tidy demo)
declare -A TITLES=(
    [format]="cargo fmt"
    [clippy]="clippy, and what the product does not use"
    [shellcheck]="shellcheck of all scripts"
    [build]="build of all tests"
    [unit]="unit and property tests"
    [tidy]="tidy rules"
    [simulation]="the data plane on a simulated kernel, and that against the real one"
    [integration]="in-process integration tests"
    [doc]="documentation examples"
    [netns]="end-to-end tests in network namespaces"
    [baselines]="baseline relays"
    [optimised]="optimised build"
    [servers]="real HTTP servers: they read what Egret has allowed"
    [loadgen]="load generator against wrk, h2load, iperf3"
    [instructions]="instruction counts of the pure parts"
    [demo]="demo, scripts/run.sh"
    [perf-unit]="performance suite, unit tests"
    [perf]="performance suite, one profile"
)

CHOSEN=()
FAST_RUN=
LOG=
PASSED=()
FAILED=()
TABLE=()

main() {
    local name
    parse_options "$@"
    cd "$ROOT"
    LOG=$(mktemp)
    trap 'rm -f "$LOG"' EXIT
    tools
    raise_descriptor_limit
    prepare_cargo
    for name in "${SECTIONS[@]}"; do
        if [[ " ${CHOSEN[*]} " == *" $name "* ]]; then
            section "$name"
        fi
    done
    totals
}

parse_options() {
    while (($#)); do
        case $1 in
            --fast) FAST_RUN=1 && CHOSEN+=("${FAST[@]}") ;;
            --list) list && exit 0 ;;
            -h | --help) print_header "$0" && exit 0 ;;
            *)
                [[ -v TITLES[$1] ]] || usage_error "there is no section or option '$1'"
                CHOSEN+=("$1")
                ;;
        esac
        shift
    done
    ((${#CHOSEN[@]})) || CHOSEN=("${SECTIONS[@]}")
}

list() {
    local name
    for name in "${SECTIONS[@]}"; do
        printf '%-14s %s\n' "$name" "${TITLES[$name]}"
    done
}

tools() {
    need_packages cc=gcc unshare=util-linux ip=iproute2 nft=nftables curl=curl openssl=openssl \
        nginx=nginx shellcheck=shellcheck promtool=prometheus wrk=wrk iperf3=iperf3 \
        h2load=nghttp2-client valgrind=valgrind taskset=util-linux python3=python3 haproxy=haproxy \
        dnsmasq=dnsmasq-base node=nodejs
    have cargo || die "cargo is missing; install Rust as https://rustup.rs says"
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        have rustup || die "cargo $component is missing; install rustfmt and clippy"
        rustup component add rustfmt clippy || die "rustup could not add rustfmt and clippy"
    done
}

# What incremental builds keep is of no use to a first build, and costs it time. Where there is
# some, somebody works, and builds again.
prepare_cargo() {
    if ! compgen -G "${CARGO_TARGET_DIR:-target}/debug/incremental/*" >/dev/null; then
        export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
    fi
}

# The end-to-end tests hold both ends of some thousand connections.
raise_descriptor_limit() {
    ulimit -Sn "$(ulimit -Hn)"
}

section_format() {
    cargo fmt --all --check
}

section_clippy() {
    cargo clippy --workspace --all-targets --locked -- -D warnings
    # The product alone, without the feature `internals`: the compiler sees what nothing uses.
    cargo clippy --lib --bins --locked -- -D warnings
}

section_shellcheck() {
    local files
    mapfile -t files < <(git ls-files '*.sh' .ci/run)
    ((${#files[@]} >= 5)) || {
        say "only ${#files[@]} shell scripts found: ${files[*]}"
        return 1
    }
    say "${#files[@]} scripts"
    shellcheck --external-sources "${files[@]}"
}

# cargo_test ARGUMENT...: always of the whole workspace, because another choice of packages has other
# features, and cargo would build the dependencies again.
cargo_test() {
    cargo test --workspace --locked --no-fail-fast "$@"
}

section_build() {
    cargo_test --no-run --tests
}

section_unit() {
    EGRET_MORE_SEEDS=10 cargo_test --lib --bins
}

section_tidy() {
    cargo_test --test tidy
}

# First with the debug build's assertions, then optimised: many seeds, and the planted faults.
# The same seeds each time: what fails is the change. scripts/simulate.sh draws fresh ones.
section_simulation() {
    export EGRET_FRESH_FROM=1000000
    cargo_test --test simulation
    cargo test --profile count --locked --test simulation -- --nocapture
}

# Every target under tests/ that has no section of its own.
section_integration() {
    local file name targets=()
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/}
        name=${name%/main.rs}
        name=${name%.rs}
        [[ $name == netns || $name == tidy || $name == simulation ]] || targets+=(--test "$name")
    done
    cargo_test "${targets[@]}"
}

section_doc() {
    cargo_test --doc
}

section_netns() {
    "$SCRIPTS/lab.sh" enter cargo test --workspace --locked --test netns
}

section_baselines() {
    "$SCRIPTS/lab.sh" enter cargo test --workspace --locked --test redirected
}

section_optimised() {
    build_measured_programs
}

section_servers() {
    build_measured_programs
    export EGRET_BINARY=$MEASURED/egret
    # 2: a server could not be started, or the like, which says nothing of Egret.
    "$SCRIPTS/servers.sh" || { (($? == 2)) && "$SCRIPTS/servers.sh"; }
}

section_loadgen() {
    build_measured_programs
    LOADGEN_BINARY=$MEASURED/loadgen cargo_test --test agreement
}

section_instructions() {
    perf/instructions.sh
}

section_demo() {
    local binary
    if [[ $FAST_RUN ]]; then
        cargo_test --no-run --test tidy
        binary=$(readlink -f "${CARGO_TARGET_DIR:-target}/debug/egret")
    else
        build_measured_programs
        binary=$MEASURED/egret
    fi
    EGRET_BINARY=$binary "$SCRIPTS/run.sh" --name "gate-$$"
}

section_perf_unit() {
    python3 -B -m unittest discover --start-directory perf --top-level-directory perf
}

section_perf() {
    build_measured_programs
    EGRET_BINARY=$MEASURED/egret LOADGEN_BINARY=$MEASURED/loadgen \
        perf/run.sh --quick --proxy direct,haproxy,egret --profile rr64
}

# section NAME
section() {
    local name=$1 start=$SECONDS code=0 result=passed
    say "" && say "== $name: ${TITLES[$name]} =="
    # A shell of its own, so that it ends at the first command that fails: `set -e` has no effect
    # inside a condition.
    set +e
    {
        (set -e; "section_${name//-/_}")
        code=$?
    } > >(tee -a "$LOG") 2>&1
    set -e
    # The pipe's other end must have written everything before the next heading.
    wait "$!" 2>/dev/null || true
    if ((code)); then
        result="FAILED (exit $code)"
        FAILED+=("$name")
    else
        PASSED+=("$name")
    fi
    say "-- $name: $result in $((SECONDS - start)) s"
    TABLE+=("$(printf '%-14s %5d s  %s' "$name" "$((SECONDS - start))" "$result")")
}

totals() {
    local counts
    # What cargo test says at the end of each target.
    counts=$(awk '/^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    } END { printf "%d tests passed, %d failed, %d ignored", passed, failed, ignored }' "$LOG")
    say "" && say "== totals =="
    printf '%s\n' "${TABLE[@]}"
    say "${#PASSED[@]} sections passed, ${#FAILED[@]} failed; $counts; $SECONDS s"
    ((${#FAILED[@]} == 0))
}

main "$@"
