# shellcheck shell=bash
# What the measuring scripts share: processes in the lab's namespaces, on one core; what nginx
# counted; what the run ran on. Sourced after scripts/lib.sh, never run; changes nothing by itself.
#
# The script that sources it sets NAME (the lab's), CPU (the core), DIRECTORY (for logs), ROOT, PERF
# and SCRIPTS.

IPERF_PORT=5201
# Closed connections leave conntrack after this long, so that connect-request-close at full speed
# (two entries each) does not fill its table.
CONNTRACK_TIME_WAIT_SECONDS=2

LAB_MADE=
NGINX_PID=
IPERF_PID=
# What run_client waits for, so that it can be stopped when the script is; else empty.
CLIENT_PID=
# The process that `spawn` started last.
SPAWNED=
# How the core spent the time of the last client: shares of 1.
CORE_IDLE=
CORE_STOLEN=

# start_lab: a new lab with nginx and iperf3 in its `out`.
#
# New for each proxy, because closed connections stay behind in TIME_WAIT for a minute. Some 14 000
# of them hold every port of one parity, and from there on each connect(2) searches the whole range:
# a few dozen connections a second, for whoever is measured next.
start_lab() {
    local part
    LAB_MADE=1
    "$SCRIPTS/lab.sh" up --name "$NAME"
    # The same cliff inside a single point: more ports, and one in TIME_WAIT serves again after 1 s.
    for part in pod node; do
        set_sysctl "$part" net/ipv4/ip_local_port_range "16384 65535"
        set_sysctl "$part" net/ipv4/tcp_tw_reuse 1
    done
    mkdir --parents "$DIRECTORY/nginx"
    spawn out "$DIRECTORY/nginx.out" \
        nginx -e nginx.log -p "$DIRECTORY/nginx/" -c "$PERF/servers/nginx.conf"
    NGINX_PID=$SPAWNED
    spawn out "$DIRECTORY/iperf3.out" iperf3 --server --port "$IPERF_PORT"
    IPERF_PID=$SPAWNED
    wait_until 10 "nginx to listen" is_listening out 80
    wait_until 10 "iperf3 to listen" is_listening out "$IPERF_PORT"
}

stop_lab() {
    stop_process "$IPERF_PID"
    IPERF_PID=
    stop_process "$NGINX_PID"
    NGINX_PID=
    [[ $LAB_MADE ]] || return 0
    "$SCRIPTS/lab.sh" down --name "$NAME"
    LAB_MADE=
}

# redirect_to PORT: what leaves the pod goes to this port of the node.
redirect_to() {
    inside node "$SCRIPTS/redirect.sh" up --interface pod0 --port "$1" >/dev/null
    # This key exists once a rule has brought conntrack into the namespace.
    set_sysctl node net/netfilter/nf_conntrack_tcp_timeout_time_wait "$CONNTRACK_TIME_WAIT_SECONDS"
}

# set_sysctl PART KEY VALUE, with / in the key.
set_sysctl() {
    inside "$1" tee "/proc/sys/$2" <<<"$3" >/dev/null
}

inside() {
    local part=$1
    shift
    nsenter --net="/run/netns/$NAME-$part" -- "$@"
}

# spawn PART LOG COMMAND...: in the background, on the core; its process id in SPAWNED.
spawn() {
    local part=$1 log=$2
    shift 2
    # Here, not in the child: whoever reads the log next must find it, and find it empty.
    : >"$log"
    nsenter --net="/run/netns/$NAME-$part" -- taskset --cpu-list "$CPU" "$@" \
        </dev/null >"$log" 2>&1 &
    SPAWNED=$!
}

# run_client COMMAND...: in the pod, to its end; what it printed is in client.out.
run_client() {
    local code=0 before
    before=$(core_times)
    spawn pod "$DIRECTORY/client.out" "$@"
    CLIENT_PID=$SPAWNED
    wait "$CLIENT_PID" || code=$?
    CLIENT_PID=
    # shellcheck disable=SC2034 # for the script that sources this
    read -r CORE_IDLE CORE_STOLEN < <(awk '
        NR == 1 { idle = $1; stolen = $2; all = $3 }
        NR == 2 { all = $3 - all; print ($1 - idle) / all, ($2 - stolen) / all }
    ' <<<"$before"$'\n'"$(core_times)")
    ((code == 0)) || die "$1 failed ($code): $(tail --lines=20 "$DIRECTORY/client.out")"
}

# "IDLE STOLEN ALL" of the core since boot, in ticks; waiting for storage counts as idle.
core_times() {
    awk -v core="cpu$CPU" '$1 == core {
        print $5 + $6, $9, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9
    }' /proc/stat
}

is_listening() {
    [[ $(inside "$1" ss --no-header --listening --tcp --numeric "sport = :$2") ]]
}

# A process that has ended and that nobody has waited for yet does not run.
is_running() {
    local state
    state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) || return 1
    [[ $state && $state != Z ]]
}

# stop_process PID: asks twice (the second signal ends an Egret that drains), then insists.
stop_process() {
    local signal
    [[ $1 ]] || return 0
    for signal in TERM TERM KILL; do
        kill -s "$signal" "$1" 2>/dev/null || break
        ! wait_until 5 "process $1 to end" is_not_running "$1" 2>/dev/null || break
    done
    wait "$1" 2>/dev/null || true
}

is_not_running() {
    ! is_running "$1"
}

# "ACCEPTED REQUESTS" since nginx began.
nginx_counts() {
    nginx_status | awk 'NR == 3 { print $1, $3 }'
}

nginx_active() {
    nginx_status | awk 'NR == 1 { print $3 }'
}

nginx_status() {
    inside out curl --silent --show-error --fail --max-time 5 http://127.0.0.1:8081/
}

# The commit of this tree, which the measured binary need not be from: see its version and hash.
commit() {
    local git=(git -c "safe.directory=$ROOT" -C "$ROOT") id
    id=$("${git[@]}" rev-parse --short=10 HEAD 2>/dev/null) || { say unknown && return 0; }
    [[ -z $("${git[@]}" status --porcelain --untracked-files=no) ]] || id+=-dirty
    say "$id"
}

mitigations() {
    local file
    for file in /sys/devices/system/cpu/vulnerabilities/*; do
        [[ -r $file && $(<"$file") != "Not affected" ]] || continue
        printf '%s: %s; ' "${file##*/}" "$(<"$file")"
    done
    printf 'command line: '
    grep --only-matching 'mitigations=[^ ]*' /proc/cmdline || say none
}
