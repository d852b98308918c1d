#!/usr/bin/env bash
# instructions.sh: whether the pure parts of Egret still cost what they did, in instructions.
#
#     perf/instructions.sh             count, print the table, exit 1 when an operation is over its
#                                      bound
#     perf/instructions.sh --update    count, and write the counts to perf/instructions.tsv; the
#                                      allowed shares stay
#
# Times on a shared machine differ by half from one second to the next; the number of instructions
# of the same program does not (within 1 %: hash tables are seeded anew in each run). So this is the
# guard that CI can bear. It says nothing about caches, branches or the kernel: for time there is
# `cargo bench -p egret-micro`.
#
# Each operation runs under `valgrind --tool=callgrind`, which counts only inside the function
# that calls it: making the inputs is not counted, and need not be subtracted. Valgrind is used
# directly because iai-callgrind wants a runner of exactly its own version installed beside it, and
# would add nothing to one number per operation.
#
# perf/instructions.tsv has the operation, how often it is called, the instructions of one call, and
# by how many percent a later count may be above that. Another compiler or another processor
# (string search uses AVX2 where there is some) changes counts: run --update, and say why in the
# commit. Operations that are not in the file take minutes under valgrind.
#
# Needs Rust, a C compiler and the Debian package valgrind (installed when missing and root).
set -euo pipefail

PERF=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$PERF")
# shellcheck source=scripts/lib.sh
. "$ROOT/scripts/lib.sh"

BOUNDS=$PERF/instructions.tsv
# Where callgrind counts; the name of a function in perf/micro/src/bin/count.rs.
COUNTED=count::measured_calls

UPDATE=
LOGS=

main() {
    case ${1:-} in
        "") ;;
        --update) UPDATE=1 ;;
        -h | --help) print_header "$0" && exit 0 ;;
        *) usage_error "unknown option '$1'" ;;
    esac
    (($# <= 1)) || usage_error "it takes one option at most"
    need_packages valgrind=valgrind cc=gcc
    build_measured_programs
    count_all
}

count_all() {
    local operation calls before allowed now over=() rows=()
    run_all
    printf '%-28s %14s %14s %9s %9s\n' operation before now change allowed
    while IFS=$'\t' read -r operation calls before allowed; do
        [[ $operation == \#* ]] && rows+=("$operation"$'\t'"$calls"$'\t'"$before"$'\t'"$allowed") &&
            continue
        now=$(instructions_per_call "$operation" "$calls")
        rows+=("$operation"$'\t'"$calls"$'\t'"$now"$'\t'"$allowed")
        printf '%-28s %14d %14d %+8.1f%% %+8d%%\n' "$operation" "$before" "$now" \
            "$(percent_above "$now" "$before")" "$allowed"
        ((now * 100 <= before * (100 + allowed))) || over+=("$operation")
    done <"$BOUNDS"
    ((${#rows[@]} > 1)) || die "$BOUNDS names no operation"
    if [[ $UPDATE ]]; then
        printf '%s\n' "${rows[@]}" >"$BOUNDS"
        say "written to ${BOUNDS#"$ROOT/"}"
    elif ((${#over[@]})); then
        die "more instructions than allowed: ${over[*]} (if that is meant: $0 --update)"
    fi
}

# Each operation, as many at a time as there are processors: what else runs changes no count.
# What valgrind says of an operation is in a file of its name in LOGS.
run_all() {
    LOGS=$(mktemp -d)
    trap 'rm -rf "$LOGS"' EXIT
    # bash -c gives each its own redirection. A failure is found in the log.
    # shellcheck disable=SC2016
    awk -F '\t' '!/^#/ { print $1, $2 }' "$BOUNDS" |
        xargs --max-procs="$(nproc)" --max-lines=1 bash -c 'exec valgrind --tool=callgrind \
            --callgrind-out-file=/dev/null --toggle-collect="$2" "$3" "$4" "$5" \
            >"$1/$4" 2>&1' bash "$LOGS" "$COUNTED" "$MEASURED/count" || true
}

# instructions_per_call OPERATION CALLS
instructions_per_call() {
    local total
    total=$(sed -n 's/.*Collected : \([0-9]*\)$/\1/p' "$LOGS/$1")
    # Zero when the function was not found, which would pass for ever.
    ((${total:-0} > 0)) || die "callgrind counted nothing of $1 in $COUNTED: $(cat "$LOGS/$1")"
    say $((total / $2))
}

# percent_above NOW BEFORE: with one digit; a new operation has 0 before.
percent_above() {
    local tenths=0
    (($2)) && tenths=$((($1 - $2) * 1000 / $2))
    local sign=
    ((tenths < 0)) && sign=- && tenths=$((-tenths))
    say "$sign$((tenths / 10)).$((tenths % 10))"
}

main "$@"
