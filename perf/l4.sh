#!/usr/bin/env bash
# l4.sh: what one TCP connection through Egret costs, next to HAProxy and to no proxy at all.
#
#     perf/l4.sh [OPTION...]
#
# Client, proxy and servers share ONE core, in three network namespaces (scripts/lab.sh) with a
# REDIRECT in the node (scripts/redirect.sh), so that throughput is the reciprocal of the whole
# path's processor time. perf/README.md says how to read the result, and what not to conclude.
#
#     --rounds N         rounds, in each of which every proxy is measured once (default 5)
#     --seconds S        duration of one point (default 5)
#     --quick            2 rounds of 2 s unless given otherwise: does it work, not how fast it is.
#                        The results go to perf/results/tmp, which git ignores
#     --egret BINARY     the egret to measure; without it a release build is made (or set
#                        EGRET_BINARY)
#     --proxies LIST     of direct, haproxy and egret, with commas; haproxy must be among them, it
#                        is what the ratios are taken against (default direct,haproxy,egret)
#     --cpu N            the core (default: the last one that this process may use)
#
# Profiles: wrk against nginx with 1, 64 and 512 keep-alive connections, and 64 that are opened and
# closed for each request; iperf3 with 2 streams; the proxies' user memory for 4000 idle
# connections. A socket error, an answer other than 2xx or 3xx, a load that did not do what its name
# says, a proxy that was bypassed, left its core or died: each ends the run with exit code 1.
#
# Prints the settings first and a table of ratios last. report.md, raw.jsonl (every point) and the
# configurations are in perf/results/DATE-COMMIT-l4/ afterwards. Takes about 9 minutes by default.
#
# Needs the Debian packages named in the script: installed when missing and root, else named.
# Without root everything happens in a user namespace.
set -euo pipefail

PERF=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$PERF")
SCRIPTS=$ROOT/scripts
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"
# shellcheck source=perf/lib.sh
. "$PERF/lib.sh"

# The addresses are those of lab.sh. In DIRECT the pod itself is what nginx sees.
POD=10.77.1.2
NODE_OUTSIDE=203.0.113.1
SERVER=203.0.113.10
# Where each proxy listens: peers/egret.yaml and peers/haproxy.cfg.
declare -A PORTS=([egret]=15001 [haproxy]=16001)
PROFILES=(keepalive_1 keepalive_64 keepalive_512 close_64 bulk_2 idle_4000)
IDLE_CONNECTIONS=4000

ARGUMENTS=("$@")
ROUNDS=
SECONDS_PER_POINT=
QUICK=
PROXIES=(direct haproxy egret)
CPU=
NAME=l4-$$
DIRECTORY=
RAW=
RESULTS=
FINISHED=
PROXY_PID=

main() {
    parse_options "$@"
    need_packages unshare=util-linux ip=iproute2 nft=nftables curl=curl jq=jq python3=python3 \
        taskset=util-linux haproxy=haproxy wrk=wrk iperf3=iperf3 nginx=nginx-light
    find_egret
    become_root "$0" "${ARGUMENTS[@]}"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    # Two descriptors for each idle connection in the proxy, and some more.
    ulimit -Sn "$(ulimit -Hn)"
    (($(ulimit -Sn) >= 3 * IDLE_CONNECTIONS)) ||
        die "the hard limit on open files is $(ulimit -Hn); raise it (ulimit -Hn 20000)"
    set_up
    local round
    for ((round = 1; round <= ROUNDS; round++)); do
        run_round "$round"
    done
    finish
}

parse_options() {
    local option
    while (($#)); do
        option=$1
        case $option in
            -h | --help) print_header "$0" && exit 0 ;;
            --quick) QUICK=1 && shift && continue ;;
            --rounds | --seconds | --egret | --proxies | --cpu) ;;
            *) usage_error "unknown option '$option'" ;;
        esac
        (($# >= 2)) || usage_error "$option needs a value"
        case $option in
            --rounds) ROUNDS=$2 ;;
            --seconds) SECONDS_PER_POINT=$2 ;;
            --egret) EGRET_BINARY=$2 ;;
            --proxies) IFS=, read -r -a PROXIES <<<"$2" ;;
            --cpu) CPU=$2 ;;
        esac
        shift 2
    done
    check_options
}

check_options() {
    local proxy
    : "${ROUNDS:=$((${QUICK:-0} ? 2 : 5))}" "${SECONDS_PER_POINT:=$((${QUICK:-0} ? 2 : 5))}"
    [[ $ROUNDS =~ ^[1-9][0-9]{0,2}$ ]] || usage_error "--rounds is 1 to 999, not '$ROUNDS'"
    [[ $SECONDS_PER_POINT =~ ^[1-9][0-9]{0,2}$ ]] ||
        usage_error "--seconds is 1 to 999, not '$SECONDS_PER_POINT'"
    for proxy in "${PROXIES[@]}"; do
        [[ $proxy == direct || $proxy == haproxy || $proxy == egret ]] ||
            usage_error "--proxies takes direct, haproxy and egret, not '$proxy'"
    done
    is_measured haproxy || usage_error "--proxies must contain haproxy: ratios are taken against it"
    : "${CPU:=$(taskset --cpu-list --pid $$ | sed 's/.*[ ,-]//')}"
    if ! [[ $CPU =~ ^[0-9]+$ ]] || ! taskset --cpu-list "$CPU" true 2>/dev/null; then
        usage_error "--cpu is the number of a core that this process may use, not '$CPU'"
    fi
}

is_measured() {
    [[ " ${PROXIES[*]} " == *" $1 "* ]]
}

# Before root is taken, so that the target directory stays the user's.
find_egret() {
    is_measured egret || return 0
    find_or_build_egret
}

set_up() {
    # Now, rather than after the last round.
    RESULTS=$PERF/results${QUICK:+/tmp}
    mkdir --parents "$RESULTS" || die "cannot make $RESULTS"
    [[ -w $RESULTS ]] || die "cannot write to $RESULTS"
    DIRECTORY=$(mktemp -d)
    RAW=$DIRECTORY/raw.jsonl
    record_settings
    say "# L4 comparison" && say ""
    "$PERF/report.py" settings "$RAW"
    say ""
}

record_settings() {
    local egret=not-measured haproxy wrk egret_sha256=not-measured
    if is_measured egret; then
        egret=$(timeout 5 "$EGRET_BINARY" --version) || die "$EGRET_BINARY --version failed"
        egret_sha256=$(sha256sum "$EGRET_BINARY" | cut --characters=1-16)
    fi
    haproxy=$(haproxy -v | sed -n 1p)
    # wrk takes the question for its version as a wrong command line.
    wrk=$({ wrk --version || true; } 2>&1 | sed -n 1p)
    jq --compact-output --null-input \
        --arg command "perf/l4.sh ${ARGUMENTS[*]}" \
        --arg date "$(date --utc +%FT%TZ)" --arg commit "$(commit)" \
        --arg kernel "$(uname --kernel-release)" \
        --arg cpu "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | sed -n 1p)" \
        --arg cores "$(nproc --all) in all, everything on core $CPU" \
        --arg mitigations "$(mitigations)" \
        --arg load "$(cut --delimiter=' ' --fields=1-3 /proc/loadavg)" \
        --arg egret "$egret" --arg egret_sha256 "$egret_sha256" --arg haproxy "$haproxy" \
        --arg nginx "$(nginx -v 2>&1)" --arg wrk "$wrk" \
        --arg iperf3 "$(iperf3 --version | sed -n 1p)" \
        --argjson rounds "$ROUNDS" --argjson seconds "$SECONDS_PER_POINT" \
        --argjson idle "$IDLE_CONNECTIONS" \
        --arg profiles "${PROFILES[*]}" --arg proxies "${PROXIES[*]}" \
        '{kind: "settings", command: $command, date: $date, commit: $commit, kernel: $kernel,
          cpu: $cpu, cores: $cores, mitigations: $mitigations, load_average_at_start: $load,
          egret: $egret, egret_sha256: $egret_sha256, haproxy: $haproxy, nginx: $nginx, wrk: $wrk,
          iperf3: $iperf3, rounds: $rounds, seconds_per_point: $seconds, idle_connections: $idle,
          profiles: ($profiles / " "), proxies: ($proxies / " ")}' >"$RAW"
}

# Each round begins with another proxy, so that none is always measured first.
run_round() {
    local round=$1 i count=${#PROXIES[@]}
    for ((i = 0; i < count; i++)); do
        measure_proxy "$round" "${PROXIES[(round - 1 + i) % count]}"
    done
}

# The points of one proxy, then its memory in a fresh process; each time in a fresh lab.
measure_proxy() {
    local round=$1 proxy=$2 profile
    start_proxy "$proxy"
    run_client wrk --threads 1 --connections 64 --duration 1s "http://$SERVER/"
    for profile in "${PROFILES[@]}"; do
        if [[ $profile == idle_* ]]; then
            [[ $proxy != direct ]] || continue
            stop_proxy
            start_proxy "$proxy"
        fi
        measure_"${profile%_*}" "${profile##*_}" "${profile}"
        check_proxy "$proxy"
        record "$round" "$proxy" "$profile"
    done
    stop_proxy
}

# The measure_ functions leave what they found here.
VALUE=
UNIT=
REQUESTS=
ACCEPTED=

record() {
    jq --compact-output --null-input --argjson round "$1" --arg proxy "$2" --arg profile "$3" \
        --argjson value "$VALUE" --arg unit "$UNIT" \
        --argjson idle "${CORE_IDLE:-null}" --argjson stolen "${CORE_STOLEN:-null}" \
        '{kind: "point", round: $round, proxy: $proxy, profile: $profile, value: $value,
          unit: $unit, core_idle: $idle, core_stolen: $stolen}' >>"$RAW"
    say "round $1/$ROUNDS  $2  $3  $VALUE $UNIT"
}

measure_keepalive() {
    local connections=$1 profile=$2
    run_wrk "$connections"
    # wrk tries the address once before it begins.
    ((ACCEPTED <= connections + 1)) ||
        die "$profile: nginx saw $ACCEPTED connections, not $connections that were kept"
}

measure_close() {
    local connections=$1 profile=$2
    run_wrk "$connections" --header "Connection: close"
    ((ACCEPTED >= REQUESTS)) ||
        die "$profile: nginx saw $ACCEPTED connections for $REQUESTS requests, not one for each"
}

# run_wrk CONNECTIONS OPTION...: sets VALUE, REQUESTS (answered) and ACCEPTED (by nginx).
run_wrk() {
    local connections=$1 result before after
    shift
    before=$(nginx_counts)
    run_client wrk --threads 1 --connections "$connections" \
        --duration "${SECONDS_PER_POINT}s" --script "$PERF/wrk.lua" "$@" "http://$SERVER/"
    after=$(nginx_counts)
    result=$(sed -n 's/^RESULT //p' "$DIRECTORY/client.out")
    jq --exit-status '.requests > 0 and ([.errors[]] | add) == 0' <<<"$result" >/dev/null ||
        die "wrk met errors, or got no answer: $result"
    REQUESTS=$(jq .requests <<<"$result")
    VALUE=$(jq '.requests / .duration_us * 1e6 | round' <<<"$result")
    UNIT=requests/s
    # Each count contains the connection that asked for it.
    ACCEPTED=$((${after% *} - ${before% *} - 1))
    local served=$((${after#* } - ${before#* } - 1))
    ((served >= REQUESTS && served <= REQUESTS + connections)) ||
        die "nginx served $served requests where wrk counted $REQUESTS"
}

measure_bulk() {
    run_client iperf3 --client "$SERVER" --port "$IPERF_PORT" --parallel "$1" \
        --time "$SECONDS_PER_POINT" --omit 1 --json
    VALUE=$(jq --exit-status '.end.sum_received.bits_per_second | round | select(. > 0)' \
        "$DIRECTORY/client.out") || die "iperf3 moved nothing: $DIRECTORY/client.out"
    UNIT=bit/s
}

measure_idle() {
    local before after
    before=$(anonymous_kib)
    spawn pod "$DIRECTORY/idle.out" "$PERF/idle.py" "$SERVER" 80 "$1"
    CLIENT_PID=$SPAWNED
    wait_until 60 "$1 idle connections" is_idle_or_gone
    is_running "$CLIENT_PID" || die "idle.py ended: $(<"$DIRECTORY/idle.out")"
    after=$(anonymous_kib)
    (($(nginx_active) >= $1)) || die "not all of the $1 idle connections stayed open"
    stop_process "$CLIENT_PID"
    CLIENT_PID=
    VALUE=$(jq --null-input "($after - $before) / $1 * 1000 | round / 1000")
    UNIT=KiB/connection
    # Nothing was under load.
    CORE_IDLE=
    CORE_STOLEN=
}

is_idle_or_gone() {
    [[ $(<"$DIRECTORY/idle.out") == ready ]] || ! is_running "$CLIENT_PID"
}

anonymous_kib() {
    sed -n 's/^RssAnon:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$PROXY_PID/status"
}

# start_proxy NAME: in a new lab, on the core, redirected to, and seen to carry traffic.
start_proxy() {
    local proxy=$1 peer=$NODE_OUTSIDE seen
    start_lab
    case $proxy in
        direct) peer=$POD ;;
        haproxy) spawn node "$DIRECTORY/haproxy.log" haproxy -db -f "$PERF/peers/haproxy.cfg" ;;
        egret)
            spawn node "$DIRECTORY/egret.log" \
                "$EGRET_BINARY" run --config "$PERF/peers/egret.yaml"
            ;;
    esac
    if [[ $proxy != direct ]]; then
        PROXY_PID=$SPAWNED
        wait_until 10 "$proxy to listen" listens_or_is_gone "${PORTS[$proxy]}"
        redirect_to "${PORTS[$proxy]}"
    fi
    check_proxy "$proxy"
    seen=$(inside pod curl --silent --show-error --fail --max-time 5 "http://$SERVER/peer") ||
        die "$proxy does not carry traffic"
    [[ $seen == "$peer" ]] || die "$proxy: nginx saw $seen, not $peer: the path is another one"
}

# check_proxy NAME: it lives, and every thread of it is on the core.
check_proxy() {
    [[ $1 != direct ]] || return 0
    is_running "$PROXY_PID" || die "$1 died; it said: $(tail --lines=20 "$DIRECTORY/$1.log")"
    local allowed
    allowed=$(sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$PROXY_PID/task/"*/status |
        sort --unique)
    [[ $allowed == "$CPU" ]] || die "$1 has threads that may leave core $CPU: ${allowed//$'\n'/, }"
}

stop_proxy() {
    stop_process "$PROXY_PID"
    PROXY_PID=
    stop_lab
}

listens_or_is_gone() {
    is_listening node "$1" || ! is_running "$PROXY_PID"
}

# The results move to their place only when everything was measured.
finish() {
    local base target number=1
    base=$RESULTS/$(jq --raw-output 'select(.kind == "settings") | .date[:10] + "-" + .commit' \
        "$RAW")-l4
    target=$base
    until mkdir "$target" 2>/dev/null; do
        number=$((number + 1))
        ((number < 100)) || die "cannot make $target"
        target=$base-$number
    done
    {
        say "# L4 comparison" && say ""
        "$PERF/report.py" full "$RAW"
        say "" && say "perf/README.md says how to read this."
    } >"$target/report.md"
    cp "$RAW" "$target/raw.jsonl"
    cp "$PERF/peers/haproxy.cfg" "$PERF/peers/egret.yaml" "$PERF/servers/nginx.conf" "$target/"
    say "" && sed '1,/^$/d' "$target/report.md"
    say "" && say "written to ${target#"$ROOT/"}"
    FINISHED=1
}

clean_up() {
    local code=$?
    trap - EXIT INT TERM HUP
    if [[ $PROXY_PID ]] && ! is_running "$PROXY_PID"; then
        say "l4.sh: the proxy (process $PROXY_PID) had died" >&2
    fi
    stop_process "$CLIENT_PID"
    stop_process "$PROXY_PID"
    stop_lab || true
    if [[ $FINISHED || ! $DIRECTORY ]]; then
        rm -rf "$DIRECTORY"
    else
        say "l4.sh: the run is NOT complete; logs and points so far: $DIRECTORY" >&2
    fi
    exit "$code"
}

main "$@"
