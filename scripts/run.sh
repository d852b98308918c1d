#!/usr/bin/env bash
# run.sh: see Egret pass, route and blackhole real traffic, on this machine, in one command.
#
#     scripts/run.sh [--keep] [--name NAME]
#
# Builds the release binary, makes a lab of three network namespaces (scripts/lab.sh), captures what
# leaves the pod (scripts/redirect.sh), starts Egret in the node with config/egret.yaml and nginx in
# the world outside. Then it drives curl and `openssl s_client` from the pod: one destination
# passes, one reaches a registered service, and after an edit of the policy file the first one is
# blackholed. It prints what happened and the `istio_tcp_*` series, and removes what it made.
#
#     --keep         leave everything running until Ctrl-C or SIGTERM, and say how to play with it
#     --name NAME    the lab's name (default: demo)
#
# Exit code: 0 when everything was as expected, 1 when something was not.
#
# Needs Rust and a C compiler, and the Debian packages iproute2, nftables, curl, openssl and nginx.
# As root they are installed when missing; without root everything happens in a user namespace.
# EGRET_BINARY=FILE uses that program instead of building one.
set -euo pipefail

SCRIPTS=$(dirname "$(readlink -f "$0")")
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=scripts/lib.sh
. "$SCRIPTS/lib.sh"

# The addresses are those of lab.sh: the open web, a service's published address, and where that
# service really runs.
WEB=203.0.113.10
WEB_V6=fd77:2::10
ORDERS=203.0.113.11
ORDERS_ENDPOINT=203.0.113.12

KEEP=
NAME=demo
ARGUMENTS=("$@")
DIRECTORY=
EGRET_PID=
NGINX_PID=
LAB_MADE=
FAILURES=0

main() {
    parse_options "$@"
    need_packages unshare=util-linux ip=iproute2 nft=nftables curl=curl openssl=openssl nginx=nginx
    find_or_build_egret
    become_root "$0" "${ARGUMENTS[@]}"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    set_up
    act_everything_is_allowed
    act_only_what_is_registered
    heading "What was counted"
    show_series "$DIRECTORY/series.2"
    if ((FAILURES)); then
        say "" && say "$FAILURES expectation(s) failed. What Egret logged:"
        cat "$DIRECTORY/egret.log"
        exit 1
    fi
    say "" && say "Everything happened as expected."
    if [[ $KEEP ]]; then
        keep
    fi
}

parse_options() {
    while (($#)); do
        case $1 in
            --keep) KEEP=1 && shift ;;
            --name)
                (($# >= 2)) || usage_error "--name needs a value"
                NAME=$2
                shift 2
                ;;
            -h | --help) print_header "$0" && exit 0 ;;
            *) usage_error "unknown option '$1'" ;;
        esac
    done
}

# Before root is taken, so that the target directory stays the user's.
set_up() {
    heading "The lab"
    [[ ! -e /run/netns/$NAME-node ]] ||
        die "a lab '$NAME' exists already; stop what runs there, then: scripts/lab.sh down" \
            "--name $NAME, or give --name"
    DIRECTORY=$(mktemp -d)
    LAB_MADE=1
    "$SCRIPTS/lab.sh" up --name "$NAME"
    say "pod 10.77.1.2  ->  node 10.77.1.1 | 203.0.113.1  ->  outside $WEB .. .14 (and IPv6)"
    start_nginx
    write_config
    start_egret
    inside node "$SCRIPTS/redirect.sh" up --interface pod0
}

start_nginx() {
    mkdir "$DIRECTORY/nginx"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -subj /CN=web.example.com -addext subjectAltName=DNS:web.example.com \
        -keyout "$DIRECTORY/key.pem" -out "$DIRECTORY/certificate.pem" 2>/dev/null
    cat >"$DIRECTORY/nginx.conf" <<CONF
daemon off;
# One process, so that there is one to stop, and none that changes its user.
master_process off;
# Who owns its files: in a user namespace there is nobody else.
user root root;
pid $DIRECTORY/nginx/pid;
error_log $DIRECTORY/nginx/error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $DIRECTORY/nginx/body;
    proxy_temp_path $DIRECTORY/nginx/proxy;
    fastcgi_temp_path $DIRECTORY/nginx/fastcgi;
    uwsgi_temp_path $DIRECTORY/nginx/uwsgi;
    scgi_temp_path $DIRECTORY/nginx/scgi;
    default_type text/plain;
    server {
        listen $WEB:80;
        listen [$WEB_V6]:80;
        listen $WEB:443 ssl;
        ssl_certificate $DIRECTORY/certificate.pem;
        ssl_certificate_key $DIRECTORY/key.pem;
        return 200 "the open web\n";
    }
    server {
        listen $ORDERS_ENDPOINT:8080;
        return 200 "the orders service\n";
    }
}
CONF
    # Not by way of `inside`: a function in the background would be a process of its own.
    nsenter --net="/run/netns/$NAME-out" -- \
        nginx -e "$DIRECTORY/nginx/error.log" -c "$DIRECTORY/nginx.conf" \
        2>"$DIRECTORY/nginx/stderr" &
    NGINX_PID=$!
    wait_until 10 "nginx to answer" answers out "http://$ORDERS_ENDPOINT:8080/" ||
        die "nginx did not start: $(cat "$DIRECTORY/nginx/stderr")"
    say "nginx (process $NGINX_PID) serves $WEB ports 80 and 443, and $ORDERS_ENDPOINT port 8080"
}

# A copy of the shipped configuration, so that it can be edited, and a registry with one service.
write_config() {
    cp -R "$ROOT/config" "$DIRECTORY/config"
    rm -f "$DIRECTORY"/config/registry.d/*
    mkdir -p "$DIRECTORY/config/registry.d"
    cat >"$DIRECTORY/config/registry.d/orders.yaml" <<YAML
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: orders
  namespace: shop
spec:
  hosts: [orders.example.com]
  addresses: [$ORDERS]
  ports:
    - { number: 80, name: http, protocol: TCP, targetPort: 8080 }
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints:
    - address: $ORDERS_ENDPOINT
YAML
    cat >"$DIRECTORY/config/workloads.yaml" <<YAML
workloads:
  - addresses: ["10.77.1.2", "fd77:1::2"]
    workload: checkout
    namespace: shop
YAML
    edit_config 'destinationIp: false' 'destinationIp: true'
}

# edit_config OLD NEW: in the effective lines, by rename, as an editor does it.
edit_config() {
    local file=$DIRECTORY/config/egret.yaml
    sed "/^ *#/!s/$1/$2/" "$file" >"$file.new"
    grep -v '^ *#' "$file.new" | grep -q "$2" || die "config/egret.yaml has no line '$1'"
    mv "$file.new" "$file"
}

start_egret() {
    nsenter --net="/run/netns/$NAME-node" -- \
        "$EGRET_BINARY" run --config "$DIRECTORY/config/egret.yaml" \
        >"$DIRECTORY/egret.log" 2>&1 &
    EGRET_PID=$!
    if ! wait_until 20 "Egret to be ready" egret_is_ready_or_gone || ! egret_is_ready; then
        cat "$DIRECTORY/egret.log" >&2
        die "Egret did not start; what it said is above"
    fi
    say "egret (process $EGRET_PID) runs in the node with $DIRECTORY/config/egret.yaml"
}

act_everything_is_allowed() {
    heading "outboundTrafficPolicy.mode: ALLOW_ANY"
    expect "curl http://$WEB/ passes" \
        reads "the open web" "http://$WEB/"
    expect "the same over IPv6 passes" \
        reads "the open web" "http://[$WEB_V6]/"
    expect "openssl s_client to $WEB:443 passes, and sees nginx's own certificate" \
        tls_handshake
    expect "curl http://$ORDERS/ reaches the registered service (STATIC, $ORDERS_ENDPOINT:8080)" \
        reads "the orders service" "http://$ORDERS/"
    expect "the connections to $WEB are counted as PassthroughCluster" \
        wait_until 5 "the counter" counted istio_tcp_connections_closed_total 3 \
        PassthroughCluster
    expect "the one to $ORDERS is counted as orders.example.com" \
        wait_until 5 "the counter" counted istio_tcp_connections_closed_total 1 \
        orders.example.com
    series >"$DIRECTORY/series.1"
    show_series "$DIRECTORY/series.1"
}

act_only_what_is_registered() {
    local generation opened
    heading "The policy file is edited: outboundTrafficPolicy.mode: REGISTRY_ONLY"
    generation=$(metric egret_config_generation)
    edit_config 'mode: ALLOW_ANY' 'mode: REGISTRY_ONLY'
    expect "Egret reads it (generation after $generation)" \
        wait_until 20 "a new generation" generation_is_after "$generation"
    opened=$(metric istio_tcp_connections_opened_total)
    expect "curl http://$WEB/ is now blackholed" blackholed "http://$WEB/"
    expect "the same over IPv6 is blackholed" blackholed "http://[$WEB_V6]/"
    expect "the blackholed ones are counted as BlackHoleCluster" \
        wait_until 5 "the counter" counted istio_tcp_connections_closed_total 2 BlackHoleCluster
    expect "and nothing was opened for them" \
        test "$opened" = "$(metric istio_tcp_connections_opened_total)"
    expect "curl http://$ORDERS/ still reaches the registered service" \
        reads "the orders service" "http://$ORDERS/"
    expect "it is counted as orders.example.com again" \
        wait_until 5 "the counter" counted istio_tcp_connections_closed_total 2 \
        orders.example.com
    series >"$DIRECTORY/series.2"
}

keep() {
    heading "Left running (Ctrl-C stops and removes it)"
    if [[ ${EGRET_USER_NAMESPACE:-} ]]; then
        say "It lives in a user namespace. In another terminal, first enter that:"
        say "    nsenter --target $EGRET_PID --user --mount --net --preserve-credentials"
    else
        say "In another terminal:"
    fi
    say "    ip netns exec $NAME-pod curl http://$WEB/"
    say "    ip netns exec $NAME-pod curl http://$ORDERS/"
    say "    ip netns exec $NAME-node curl -s http://127.0.0.1:15020/metrics"
    say "    ip netns exec $NAME-node curl -s http://127.0.0.1:15000/"
    say "    ip netns exec $NAME-node scripts/redirect.sh status"
    say "Edit and save, Egret follows:  $DIRECTORY/config/egret.yaml and registry.d/ beside it"
    say "Its log:                       $DIRECTORY/egret.log"
    wait "$EGRET_PID" || true
    die "Egret has ended; its last lines: $(tail -n 5 "$DIRECTORY/egret.log")"
}

# On every way out, by process id.
clean_up() {
    local code=$?
    trap - EXIT INT TERM HUP
    stop_process "$EGRET_PID"
    stop_process "$NGINX_PID"
    if [[ $LAB_MADE ]]; then
        "$SCRIPTS/lab.sh" down --name "$NAME" || true
    fi
    if [[ $DIRECTORY ]]; then
        rm -rf "$DIRECTORY"
    fi
    exit "$code"
}

# stop_process PID: asks twice (the second signal ends an Egret that drains), then insists.
stop_process() {
    local pid=$1
    [[ $pid ]] || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    wait_until 5 "process $pid to end" is_gone "$pid" 2>/dev/null ||
        kill -TERM "$pid" 2>/dev/null || true
    wait_until 5 "process $pid to end" is_gone "$pid" 2>/dev/null ||
        kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

is_gone() {
    ! [[ -r /proc/$1/stat ]] || [[ $(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) == Z ]]
}

# inside pod|node|out COMMAND...
inside() {
    local part=$1
    shift
    nsenter --net="/run/netns/$NAME-$part" -- "$@"
}

answers() {
    inside "$1" curl --silent --output /dev/null --max-time 2 "$2"
}

egret_is_ready() {
    inside node curl --silent --fail --output /dev/null --max-time 2 \
        http://127.0.0.1:15021/healthz/ready
}

egret_is_ready_or_gone() {
    egret_is_ready || is_gone "$EGRET_PID"
}

# reads TEXT URL: curl in the pod gets this body.
reads() {
    [[ $(inside pod curl --silent --globoff --max-time 5 "$2") == "$1" ]]
}

# blackholed URL: curl in the pod is cut off at once, without an answer: 52 is an empty reply (FIN),
# 56 a reset.
blackholed() {
    local code=0
    inside pod curl --silent --globoff --output /dev/null --max-time 5 "$1" || code=$?
    ((code == 52 || code == 56))
}

tls_handshake() {
    inside pod openssl s_client -connect "$WEB:443" -servername web.example.com \
        -CAfile "$DIRECTORY/certificate.pem" -verify_return_error -brief </dev/null 2>&1 |
        grep -q 'Verification: OK'
}

scrape() {
    inside node curl --silent --fail --max-time 5 http://127.0.0.1:15020/metrics
}

# metric NAME [DESTINATION_SERVICE_NAME]: the sum of its series.
metric() {
    scrape | awk -v name="$1" -v service="${2:+destination_service_name=\"$2\"}" '
        { series = $1; sub(/\{.*/, "", series) }
        series == name && (service == "" || index($0, service)) { sum += $NF }
        END { print sum + 0 }'
}

# counted NAME VALUE DESTINATION_SERVICE_NAME
counted() {
    [[ $(metric "$1" "$3") == "$2" ]]
}

generation_is_after() {
    (($(metric egret_config_generation) > $1))
}

series() {
    scrape | grep '^istio_tcp_' | sort
}

# The labels that tell these series apart; there are 24.
show_series() {
    say "" && say "The istio_tcp_* series now (/metrics shows all of their labels):"
    awk '{
        name = $0; sub(/\{.*/, "", name)
        text = ""
        split("source_workload destination_service_name destination_ip response_flags", \
            labels, " ")
        for (i = 1; i <= 4; i++)
            if (match($0, "[{,]" labels[i] "=\"[^\"]*\""))
                text = text (text == "" ? "" : ",") substr($0, RSTART + 1, RLENGTH - 1)
        printf "  %s{%s} %s\n", name, text, $NF
    }' "$1"
}

heading() {
    say "" && say "== $* =="
}

# expect WHAT COMMAND...
expect() {
    local what=$1
    shift
    if "$@"; then
        say "  ok      $what"
    else
        say "  FAILED  $what"
        FAILURES=$((FAILURES + 1))
    fi
}

main "$@"
