#!/usr/bin/env bash
# verdicts.sh: Egret's verdicts beside Istio's own, on registries and connections drawn at random.
#
#     scripts/verdicts.sh [OPTION...]
#
#     --seed N         draw the registries of this seed (default: any; it is printed)
#     --scenarios N    draw so many, with 24 connections each (default 500: some two minutes)
#     --keep FILE      keep the scenarios with Istio's answers
#
# Istio's control plane and its simulation of Envoy (tests/verdicts/istio) are asked, as the Go
# module proxy has them; building that takes some ten minutes the first time. Egret is asked by the
# test that also reads the stored answers of tests/verdicts. It fails if Egret is wider or stricter
# than docs/policy.md says, and prints how often each has a reason to differ.
#
# Needs Rust, Python 3, and Go 1.21 or newer, which fetches the version that go.mod names.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

VERDICTS=$ROOT/tests/verdicts
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/egret/verdicts

main() {
    local seed=$RANDOM scenarios=500 keep=
    while (($#)); do
        case $1 in
            -h | --help) print_header "$0" && exit 0 ;;
            --seed) seed=${2:?--seed needs a number} && shift 2 ;;
            --scenarios) scenarios=${2:?--scenarios needs a number} && shift 2 ;;
            --keep) keep=$(readlink -m "${2:?--keep needs a file}") && shift 2 ;;
            *) usage_error "unknown option $1" ;;
        esac
    done
    need_go
    mkdir -p "$CACHE"
    DIRECTORY=$(mktemp -d)
    trap 'rm -rf "$DIRECTORY"' EXIT
    say "building what asks Istio (the first time takes ten minutes)"
    (cd "$VERDICTS/istio" && go test -c -vet=off -o "$CACHE/answer" .) || die "go could not build it"
    say "drawing $scenarios scenarios of seed $seed"
    python3 "$VERDICTS/draw.py" "$seed" "$scenarios" >"$DIRECTORY/drawn"
    SCENARIOS=$DIRECTORY/drawn ANSWERED=$DIRECTORY/answered "$CACHE/answer" -test.timeout 24h \
        >"$DIRECTORY/log" 2>&1 || { tail -n 20 "$DIRECTORY/log" && die "Istio has no answer"; }
    [[ -z $keep ]] || cp "$DIRECTORY/answered" "$keep"
    cd "$ROOT"
    VERDICTS=$DIRECTORY/answered cargo test --quiet --lib -- --ignored --nocapture \
        fresh_verdicts_are_istios_or_stricter
}

main "$@"
