#!/usr/bin/env bash
# test.sh: the gate. What CI runs and a newcomer runs; every section must pass.
#
#     scripts/test.sh
#
# Sections: format, clippy, shellcheck, unit and property tests, in-process integration tests and
# the tidy rules, documentation examples, end-to-end tests in network namespaces, the load generator
# held against other tools, the baseline relays, the instruction counts of the pure parts
# (perf/instructions.sh), the demo (scripts/run.sh), and the performance suite at its smallest
# (perf/run.sh): it must work, and its ratio is shown, not judged. All sections run, even after one
# has failed; the last lines hold the totals.
#
# Needs Rust with rustfmt and clippy, a C compiler and the Debian packages named below. As root
# what is missing is installed; else it is named, and the gate fails. Without root the sections that
# need namespaces run in a user namespace. Nothing is skipped.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

LOG=
PASSED=()
FAILED=()

main() {
    case ${1:-} in
        "") ;;
        -h | --help) print_header "$0" && exit 0 ;;
        *) usage_error "it takes no arguments, not '$1'" ;;
    esac
    cd "$ROOT"
    LOG=$(mktemp)
    trap 'rm -f "$LOG"' EXIT
    tools
    raise_descriptor_limit

    section "format" cargo fmt --all --check
    section "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings
    # Without the feature `internals` the compiler sees what nothing uses.
    section "clippy, the product alone" cargo clippy --locked --lib --bins -- -D warnings
    section "shellcheck" shellcheck_all
    section "unit and property tests" cargo test --workspace --locked --lib --bins --no-fail-fast
    section "in-process integration tests, tidy" integration_tests
    section "documentation examples" cargo test --workspace --locked --doc
    section "end-to-end tests in network namespaces" end_to_end_tests
    section "load generator against wrk, h2load, iperf3" \
        cargo test --profile count --locked --package egret-loadgen --test agreement
    section "baseline relays" \
        "$SCRIPTS/lab.sh" enter cargo test --locked --package egret-baselines --test redirected
    section "instruction counts" perf/instructions.sh
    section "demo" "$SCRIPTS/run.sh" --name "gate-$$"
    section "performance suite, unit tests" \
        python3 -B -m unittest discover --start-directory perf --top-level-directory perf
    section "performance suite, one profile" \
        perf/run.sh --quick --proxy direct,haproxy,egret --profile rr64
    totals
}

tools() {
    need_packages cc=gcc unshare=util-linux ip=iproute2 nft=nftables curl=curl openssl=openssl \
        nginx=nginx shellcheck=shellcheck promtool=prometheus wrk=wrk iperf3=iperf3 \
        h2load=nghttp2-client valgrind=valgrind taskset=util-linux python3=python3 haproxy=haproxy
    have cargo || die "cargo is missing; install Rust as https://rustup.rs says"
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        have rustup || die "cargo $component is missing; install rustfmt and clippy"
        rustup component add rustfmt clippy || die "rustup could not add rustfmt and clippy"
    done
}

# The end-to-end tests hold both ends of some thousand connections.
raise_descriptor_limit() {
    ulimit -Sn "$(ulimit -Hn)"
}

shellcheck_all() {
    local files
    mapfile -t files < <(git ls-files '*.sh' .ci/run)
    ((${#files[@]} >= 5)) || {
        say "only ${#files[@]} shell scripts found: ${files[*]}"
        return 1
    }
    say "${#files[@]} scripts"
    shellcheck --external-sources "${files[@]}"
}

# Every target under tests/ but the one that needs namespaces.
integration_tests() {
    local file name targets=()
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/}
        name=${name%/main.rs}
        name=${name%.rs}
        [[ $name == netns || $name == '*' ]] || targets+=(--test "$name")
    done
    cargo test --workspace --locked --no-fail-fast "${targets[@]}"
}

end_to_end_tests() {
    "$SCRIPTS/lab.sh" enter cargo test --locked --test netns
}

# section TITLE COMMAND...
section() {
    local title=$1 start=$SECONDS code=0
    shift
    say "" && say "== $title =="
    { "$@" 2>&1 || code=$?; } > >(tee -a "$LOG")
    # The pipe's other end must have written everything before the next heading.
    wait "$!" 2>/dev/null || true
    if ((code)); then
        FAILED+=("$title")
        say "-- $title: FAILED (exit $code) after $((SECONDS - start)) s"
    else
        PASSED+=("$title")
        say "-- $title: passed in $((SECONDS - start)) s"
    fi
}

totals() {
    local counts title
    # What cargo test says at the end of each target.
    counts=$(awk '/^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    } END { printf "%d tests passed, %d failed, %d ignored", passed, failed, ignored }' "$LOG")
    say "" && say "== totals =="
    for title in "${FAILED[@]}"; do
        say "FAILED: $title"
    done
    say "${#PASSED[@]} sections passed, ${#FAILED[@]} failed; $counts; $SECONDS s"
    ((${#FAILED[@]} == 0))
}

main "$@"
