#!/usr/bin/env bash
# simulate.sh: lives of the data plane on a simulated kernel, from fresh seeds, as many as wanted.
#
#     scripts/simulate.sh --seeds N    N scenarios; without it 100 000
#     scripts/simulate.sh --seed S     one of them again
#     --from S                         the seeds from S on; without it fresh ones
#     --go-on                          a seed that fails is told and does not end the run
#
# Says every 10 s how many have run and how many a second, and at the end where they have been. The
# first that fails ends the run: it prints its seed, the shortest scenario that still fails, and
# what happened in that (tests/simulation). The build is optimised; a scenario takes about a
# millisecond of one processor.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

main() {
    local seeds=100000 seed=
    unset EGRET_SEED EGRET_SEEDS EGRET_GOES_ON
    while (($#)); do
        case $1 in
            --seeds) seeds=${2:?"--seeds needs a number"} && shift 2 ;;
            --seed) seed=${2:?"--seed needs a number"} && shift 2 ;;
            --from) export EGRET_SEED=${2:?"--from needs a number"} && shift 2 ;;
            --go-on) export EGRET_GOES_ON=1 && shift ;;
            -h | --help) print_header "$0" && exit 0 ;;
            *) usage_error "there is no option '$1'" ;;
        esac
    done
    cd "$SCRIPTS/.."
    if [[ $seed ]]; then
        export EGRET_SEED=$seed
    else
        export EGRET_SEEDS=$seeds
    fi
    cargo test --profile count --locked --test simulation -- --nocapture lives_of
}

main "$@"
