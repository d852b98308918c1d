#!/usr/bin/env bash
# run.sh: see Egret pass, route and blackhole real traffic, on this machine, in one command.
#
#     scripts/run.sh [--keep] [--name NAME]
#
# Builds the release binary, makes a lab of three network namespaces (scripts/lab.sh), captures what
# leaves the pod (scripts/redirect.sh), starts Egret in the node with config/egret.yaml and nginx in
# the world outside. Then it drives curl and `openssl s_client` from the pod: what is unknown
# passes, what is registered reaches its service, by address, by Host or by SNI; after an edit of
# the policy file the unknown is blocked, and counted by the name that it used. It prints what
# happened and the series of `istio_requests_total` and `istio_tcp_*`, and removes what it made.
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
    inside node "$SCRIPTS/redirect.sh" up --interface pod0 --exclude 10.77.1.0/24
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

# A copy of the shipped configuration, so that it can be edited, and a registry with one service that
# is found by its address, and one that is found by its name.
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
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: api
  namespace: shop
spec:
  hosts: [api.example.com]
  ports:
    - { number: 80, name: http, protocol: HTTP }
    - { number: 443, name: https, protocol: HTTPS }
  location: MESH_EXTERNAL
  resolution: NONE
YAML
    cat >"$DIRECTORY/config/workloads.yaml" <<YAML
workloads:
  - addresses: ["10.77.1.2", "fd77:1::2"]
    workload: checkout
    namespace: shop
YAML
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
    expect "curl http://web.example.com/ passes" \
        reads "the open web" http://web.example.com/ "$WEB"
    expect "the same over IPv6 passes" \
        reads "the open web" http://web.example.com/ "[$WEB_V6]"
    expect "openssl s_client for web.example.com passes, and sees nginx's own certificate" \
        tls_handshake web.example.com
    expect "curl http://api.example.com/ passes, as a registered service by its Host" \
        reads "the open web" http://api.example.com/ "$WEB"
    expect "curl http://$ORDERS/ reaches the registered service (STATIC, $ORDERS_ENDPOINT:8080)" \
        reads "the orders service" "http://$ORDERS/" "$ORDERS"
    expect "the requests to web.example.com are counted as PassthroughCluster, with its name" \
        counted istio_requests_total 2 PassthroughCluster web.example.com
    expect "and so is the TLS connection" \
        counted istio_tcp_connections_closed_total 1 PassthroughCluster web.example.com
    expect "the one to api.example.com is counted as that" \
        counted istio_requests_total 1 api.example.com
    expect "the one to $ORDERS is counted as orders.example.com" \
        counted istio_requests_total 1 orders.example.com
    series >"$DIRECTORY/series.1"
    show_series "$DIRECTORY/series.1"
}

act_only_what_is_registered() {
    local generation
    heading "The policy file is edited: outboundTrafficPolicy.mode: REGISTRY_ONLY"
    generation=$(metric egret_config_generation)
    edit_config 'mode: ALLOW_ANY' 'mode: REGISTRY_ONLY'
    expect "Egret reads it (generation after $generation)" \
        wait_until 20 "a new generation" generation_is_after "$generation"
    expect "curl http://web.example.com/ is now answered with 502" \
        status_is 502 http://web.example.com/ "$WEB"
    expect "the same over IPv6" \
        status_is 502 http://web.example.com/ "[$WEB_V6]"
    expect "openssl s_client for web.example.com is cut off" \
        not tls_handshake web.example.com
    expect "they are counted as BlackHoleCluster, with the name" \
        counted istio_requests_total 2 BlackHoleCluster web.example.com
    expect "and so is the TLS connection" \
        counted istio_tcp_connections_closed_total 1 BlackHoleCluster web.example.com
    expect "and no byte of it" \
        test 0 = "$(metric istio_tcp_received_bytes_total BlackHoleCluster)"
    expect "curl http://api.example.com/, to the same address, still passes by its Host" \
        reads "the open web" http://api.example.com/ "$WEB"
    expect "openssl s_client for api.example.com still passes by its SNI" \
        tls_handshake api.example.com
    expect "curl http://$ORDERS/ still reaches the registered service" \
        reads "the orders service" "http://$ORDERS/" "$ORDERS"
    expect "they are counted as api.example.com and orders.example.com again" \
        both_are_counted_again
    series >"$DIRECTORY/series.2"
}

both_are_counted_again() {
    counted istio_requests_total 2 api.example.com &&
        counted istio_tcp_connections_closed_total 1 api.example.com &&
        counted istio_requests_total 2 orders.example.com
}

keep() {
    heading "Left running (Ctrl-C stops and removes it)"
    if [[ ${EGRET_USER_NAMESPACE:-} ]]; then
        say "It lives in a user namespace. In another terminal, first enter that:"
        say "    nsenter --target $EGRET_PID --user --mount --net --preserve-credentials"
    else
        say "In another terminal:"
    fi
    say "    ip netns exec $NAME-pod curl -i --connect-to ::$WEB: http://web.example.com/"
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

# ask URL ADDRESS OPTION...: curl in the pod, sent to ADDRESS whatever the URL's host.
ask() {
    inside pod curl --silent --globoff --max-time 5 --connect-to "::$2:80" "$1" "${@:3}"
}

# reads TEXT URL ADDRESS: this is the body.
reads() {
    [[ $(ask "$2" "$3") == "$1" ]]
}

# status_is CODE URL ADDRESS
status_is() {
    [[ $(ask "$2" "$3" --output /dev/null --write-out '%{http_code}') == "$1" ]]
}

# tls_handshake NAME: by s_client, with nginx's own certificate.
tls_handshake() {
    inside pod openssl s_client -connect "$WEB:443" -servername "$1" \
        -CAfile "$DIRECTORY/certificate.pem" -verify_return_error -brief </dev/null 2>&1 |
        grep -q 'Verification: OK'
}

not() {
    ! "$@"
}

scrape() {
    inside node curl --silent --fail --max-time 5 http://127.0.0.1:15020/metrics
}

# metric NAME [DESTINATION_SERVICE_NAME [DESTINATION_SERVICE]]: the sum of its series.
metric() {
    scrape | awk -v name="$1" -v cluster="${2:+destination_service_name=\"$2\"}" \
        -v service="${3:+destination_service=\"$3\"}" '
        { series = $1; sub(/\{.*/, "", series) }
        series == name && index($0, cluster) && index($0, service) { sum += $NF }
        END { print sum + 0 }'
}

# counted NAME VALUE DESTINATION_SERVICE_NAME [DESTINATION_SERVICE]: soon, it is.
counted() {
    wait_until 5 "the counter" is_counted "$@"
}

is_counted() {
    [[ $(metric "$1" "${@:3}") == "$2" ]]
}

generation_is_after() {
    (($(metric egret_config_generation) > $1))
}

series() {
    scrape | grep -E '^istio_(tcp_|requests_total)' | sort
}

# The labels that tell these series apart; there are 24 to 25.
show_series() {
    say "" && say "The series of requests and TCP now (/metrics shows all of their labels):"
    awk '{
        name = $0; sub(/\{.*/, "", name)
        text = ""
        count = split("source_workload destination_service_name destination_service " \
            "response_code response_flags", labels, " ")
        for (i = 1; i <= count; i++)
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
