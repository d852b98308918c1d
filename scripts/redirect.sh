#!/usr/bin/env bash
# redirect.sh: nftables rules that hand the workloads' outgoing TCP connections to Egret.
#
#     scripts/redirect.sh up [OPTION...]     install the rules, replacing those of an earlier `up`
#     scripts/redirect.sh down               remove them, and nothing else
#     scripts/redirect.sh status             print them, and what happens to TCP that they capture
#                                            and cannot hand over; exit 0 up, 3 down
#
# What is captured (at least one for `up`):
#     --interface IF    TCP that arrives on this interface; repeatable, a final * is a wildcard
#     --source CIDR     TCP that arrives from these addresses (IPv4 or IPv6); repeatable
#     --local           TCP that processes of this network namespace open themselves
#
# What is left alone: loopback, link-local and multicast destinations, this node's own addresses,
# and
#     --exclude CIDR    these destinations; repeatable
#     --mark N          packets that carry this mark: Egret's own (default 1337: `upstream.mark`)
#     --uid UID         with --local: what this user opens, for an Egret without SO_MARK. Replaces
#                       the mark unless --mark is given too
#
# How it reaches Egret:
#     --mode redirect   nat: the destination becomes this node (default; `listen.capture: redirect`)
#     --mode tproxy     no nat: the socket keeps the destination (`listen.capture: tproxy`)
#     --port PORT       Egret's `listen.port` (default 15001)
#     --no-conntrack    with --mode tproxy and without --local: keep connection tracking away from
#                       captured connections and from Egret's own (which carry the mark). See below
#     --fail-open       with --mode tproxy and without --local: what cannot be handed over passes
#                       instead of being dropped. See below
#     --drop-rest       with --interface or --source: drop what they send that is not TCP. See below
#     --dry-run         print what `up` would do, change nothing
#
# The rules act in the current network namespace and are made in one transaction, IPv4 and IPv6
# together, in a table of their own, `inet egret`; no other table is touched. Mode tproxy adds the
# firewall mark 15001 (0x3a99), the routing table 15001 and an `ip rule` of priority 15001 for each
# address family.
#
# What is captured and cannot be handed over goes nowhere, whether Egret is absent, starts, drains
# or has died: with redirect the workload's connection is refused, with tproxy its packets are
# dropped. --fail-open lets them pass, and thereby everything that the policy forbids, for as long
# as no Egret listens. Nothing else makes them pass: not the lack of a SYN, not an opening by the
# other side.
#
# A captured workload can still serve: its answers pass once connection tracking has seen a SYN to
# it that no captured source has sent, and its SYN-ACK. The rules note this in the connection's
# labels (ct label) 125 to 127 and leave the other labels and the connection mark alone. TCP to a
# captured workload that begins without a SYN is dropped. Connections that exist when the rules
# first go up have no such label and end, unless their other end is left alone: what the workload
# sends is reset by a tproxy Egret that listens, and dropped otherwise; open them again.
# Those that an earlier `up` has let pass go on when `up` runs again. Connections that local
# processes (--local) have opened already end with tproxy; with redirect they go on if connection
# tracking knows them.
#
# --drop-rest closes the ways past Egret. From captured interfaces and sources the node then forwards
# no UDP to port 443 (HTTP/3), no other protocol than TCP and UDP (ICMP, GRE, SCTP, ESP ...), nothing
# that connection tracking calls invalid, and no IPv6 packet whose TCP header is out of reach. What
# answers a connection that others have opened, ICMP errors about such a packet, excluded
# destinations and what is for the node itself pass. UDP to other ports passes, DNS among it: block
# it in a firewall of your own if that is too much. Off by default: captured workloads cannot ping.
#
# Whatever the options, packets of captured interfaces and sources to 0.0.0.0/8, ::/96 and
# ::ffff:0:0/96 are dropped: no network leads there, and the kernel takes some of them for this node.
#
# --no-conntrack takes these packets out of what depends on connection tracking: rules by `ct state`
# see them as `untracked`, so a firewall that lets only `established` in must let `untracked` in as
# well; and no nat rule applies to Egret's own connections (masquerading of what the node sends).
# ICMP errors about them are `invalid`, and the last packets of a connection that Egret has closed
# may be. A connection that is tracked already stays listed until it times out. Captured workloads
# then cannot serve connections from elsewhere: nothing tells their answers from what they open.
#
# Needs nft, and ip for tproxy, and CAP_NET_ADMIN. Examples:
#     scripts/redirect.sh up --interface 'cali*' --exclude 10.96.0.0/12
#     scripts/redirect.sh up --mode tproxy --source 10.244.1.0/24 --source fd00:10:244:1::/64
#     scripts/redirect.sh up --local --uid egret
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

TABLE="inet egret"
# The mark that turns a packet to the local routing table below. It must differ from every mark that
# Egret puts on its own packets.
TPROXY_MARK=15001
ROUTE_TABLE=15001
RULE_PRIORITY=15001

# Bits of a connection's labels, not of its mark: the mark belongs to routing and load balancing,
# and some of its users write all 32 bits. Setting a label leaves the other 127 as they are.
LABEL_OPENED=125   # by a SYN from elsewhere to a captured workload
LABEL_ANSWERED=126 # and by the workload with a SYN-ACK: from here on its answers pass
LABEL_CAPTURED=127 # handed over by tproxy
TCP_FLAGS="tcp flags & (fin | syn | rst | ack)"

MODE=redirect
PORT=15001
MARK=
OWNER=
LOCAL=
UNTRACKED=
FAIL_OPEN=
DROP_REST=
DRY_RUN=
INTERFACES=()
SOURCES_V4=()
SOURCES_V6=()
# Link-local includes the clouds' metadata service, which must not be reached from the node's own
# address on behalf of a workload.
EXCLUDES_V4=(127.0.0.0/8 169.254.0.0/16 224.0.0.0/4)
EXCLUDES_V6=(::1/128 fe80::/10 ff00::/8)
EXCLUDES_OWN=0 # how many --exclude has added

main() {
    local command=${1:-}
    case $command in
        -h | --help | help) print_header "$0" && exit 0 ;;
        up | down | status) shift ;;
        "") usage_error "a command is missing: up, down or status" ;;
        *) usage_error "unknown command '$command'" ;;
    esac
    parse_options "$@"
    if [[ $command == up ]]; then
        check_options
        if [[ $DRY_RUN ]]; then
            print_plan
            exit 0
        fi
    fi
    require_nft
    "redirect_$command"
}

parse_options() {
    local option
    while (($#)); do
        option=$1
        case $option in
            -h | --help) print_header "$0" && exit 0 ;;
            --local) LOCAL=1 && shift && continue ;;
            --dry-run) DRY_RUN=1 && shift && continue ;;
            --no-conntrack) UNTRACKED=1 && shift && continue ;;
            --fail-open) FAIL_OPEN=1 && shift && continue ;;
            --drop-rest) DROP_REST=1 && shift && continue ;;
            --mode | --port | --mark | --uid | --interface | --source | --exclude) ;;
            *) usage_error "unknown option '$option'" ;;
        esac
        (($# >= 2)) || usage_error "$option needs a value"
        take_value "$option" "$2"
        shift 2
    done
}

take_value() {
    local option=$1 value=$2
    case $option in
        --mode) MODE=$value ;;
        --port) PORT=$value ;;
        --mark) MARK=$value ;;
        --uid) OWNER=$value ;;
        --interface) INTERFACES+=("$value") ;;
        --source)
            check_cidr "$option" "$value"
            if [[ $value == *:* ]]; then SOURCES_V6+=("$value"); else SOURCES_V4+=("$value"); fi
            ;;
        --exclude)
            check_cidr "$option" "$value"
            if [[ $value == *:* ]]; then EXCLUDES_V6+=("$value"); else EXCLUDES_V4+=("$value"); fi
            EXCLUDES_OWN=$((EXCLUDES_OWN + 1))
            ;;
    esac
}

check_cidr() {
    [[ $2 =~ ^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+(/[0-9]{1,2})?$ ||
        $2 =~ ^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(/[0-9]{1,3})?$ ]] ||
        usage_error "$1 takes an address or CIDR such as 10.0.0.0/8 or fd00::/8, not '$2'"
}

check_options() {
    local interface
    [[ $MODE == redirect || $MODE == tproxy ]] ||
        usage_error "--mode is redirect or tproxy, not '$MODE'"
    if [[ $UNTRACKED && $MODE == redirect ]]; then
        usage_error "--no-conntrack needs --mode tproxy: with redirect it is connection tracking" \
            "that changes the destination and remembers the original one"
    fi
    if [[ $UNTRACKED && $LOCAL ]]; then
        usage_error "--no-conntrack does not go with --local: what local processes open is told" \
            "from what they answer by connection tracking"
    fi
    if [[ $FAIL_OPEN && $MODE == redirect ]]; then
        usage_error "--fail-open needs --mode tproxy: with redirect the destination is changed" \
            "before it is known whether anything listens"
    fi
    if [[ $FAIL_OPEN && $LOCAL ]]; then
        usage_error "--fail-open does not go with --local: what local processes send has left its" \
            "way before it is known whether anything listens"
    fi
    if [[ $DROP_REST ]] && ! captures_others; then
        usage_error "--drop-rest is about what captured interfaces and sources send: it needs" \
            "--interface or --source"
    fi
    if ! [[ $PORT =~ ^[1-9][0-9]{0,4}$ ]] || ((PORT > 65535)); then
        usage_error "--port is 1 to 65535, not '$PORT'"
    fi
    [[ $OWNER =~ ^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$ ]] ||
        usage_error "--uid takes a user's name or number, not '$OWNER'"
    if [[ $OWNER && ! $LOCAL ]]; then
        usage_error "--uid tells local processes apart: it needs --local"
    fi
    if [[ ! $MARK && ! $OWNER ]]; then
        MARK=1337
    fi
    if [[ $MARK ]]; then
        [[ $MARK =~ ^(0x[0-9a-fA-F]{1,8}|[1-9][0-9]{0,9})$ ]] ||
            usage_error "--mark takes a number above 0, not '$MARK'"
        ((MARK != TPROXY_MARK)) ||
            usage_error "--mark $MARK is the mark that tproxy mode uses itself; take another one"
    fi
    captures_others || [[ $LOCAL ]] ||
        usage_error "nothing to capture: give --interface, --source or --local"
    for interface in "${INTERFACES[@]}"; do
        [[ $interface =~ ^[A-Za-z0-9_.@-]{1,15}\*?$ ]] ||
            usage_error "'$interface' is no interface name"
    done
}

redirect_up() {
    local interface
    [[ $MODE == redirect ]] || have ip || die "ip is missing; install the package iproute2"
    for interface in "${INTERFACES[@]}"; do
        [[ $interface == *\* ]] || ! have ip || ip link show dev "$interface" >/dev/null 2>&1 ||
            die "there is no interface '$interface' here; \`ip link\` lists them"
    done
    # The routes come before the rules that need them and go after them, so that a packet that a
    # rule has marked always finds its route.
    if [[ $MODE == tproxy ]]; then
        routes_up
    fi
    if ! nft_script | nft -f -; then
        [[ $MODE != tproxy ]] || nft list table inet egret >/dev/null 2>&1 || routes_down
        die "nft refused the rules (its message is above); nothing was changed." \
            "--dry-run shows them. Kernel 5.10 or newer with nf_tables is needed, and for" \
            "connection tracking NF_CONNTRACK_LABELS"
    fi
    if [[ $MODE == redirect ]]; then
        routes_down
    fi
    say "up: $(summary)"
    if captures_others && ((EXCLUDES_OWN == 0)); then
        say "warning: without --exclude, connections between workloads are captured, too. The other" \
            "end then sees this node's address, so policies between pods do not see the pod" \
            "behind Egret, and what they forbid may pass. Exclude the networks of pods and services"
    fi
    if [[ $UNTRACKED ]]; then
        say "--no-conntrack: captured workloads cannot serve connections from elsewhere, only" \
            "from this node and from excluded addresses"
    fi
}

redirect_down() {
    nft -f - <<<"table $TABLE
delete table $TABLE" || die "nft could not remove the table $TABLE (its message is above)"
    routes_down
    say "down"
}

redirect_status() {
    local rules
    if ! rules=$(nft list table inet egret 2>/dev/null); then
        say "down"
        exit 3
    fi
    if [[ $rules == *tproxy* ]] && ! routes_complete; then
        say "down: the table is there, its routes are not; run \`redirect.sh up\` again"
        exit 3
    fi
    say "up"
    say "captured but not handed over: $(fate_of_the_rest "$rules")"
    say "$rules"
    if [[ $rules == *tproxy* ]]; then
        ip -4 rule show priority $RULE_PRIORITY
        ip -6 rule show priority $RULE_PRIORITY
    fi
}

summary() {
    local what=("${INTERFACES[@]}" "${SOURCES_V4[@]}" "${SOURCES_V6[@]}")
    printf 'TCP from %s goes to port %s (%s); not handed over: %s' \
        "${what[*]}${LOCAL:+${what[*]:+ }local processes}" "$PORT" \
        "$MODE${UNTRACKED:+, untracked}" "$(fate_of_the_rest "$(nft list table inet egret)")"
    [[ ! $DROP_REST ]] || printf '; UDP/443 and other protocols: dropped'
}

# fate_of_the_rest RULES: what happens to TCP that is captured and cannot be handed over, as the
# rules say that the kernel has: the end of the chain that all of it goes through.
fate_of_the_rest() {
    local last
    if [[ $1 == *redirect\ to* ]]; then
        last=$(last_rule "$1" rest)
        # Where only local processes are captured, no packet escapes the redirection.
        if [[ $last == *drop || $1 != *iifname* && $1 != *saddr* ]]; then
            say "refused"
        else
            say "refused, but what connection tracking does not know passes"
        fi
    else
        last=$(last_rule "$1" capture)
        if [[ $last == *drop ]]; then say "dropped"; else say "passes"; fi
    fi
}

# last_rule RULES CHAIN
last_rule() {
    sed -n "/^[[:space:]]*chain $2 {/,/^[[:space:]]*}/p" <<<"$1" | sed '$d' | tail -n 1
}

print_plan() {
    nft_script
    if [[ $MODE == tproxy ]]; then
        say "# and, for mode tproxy:"
        say "# ip -4 route replace local 0.0.0.0/0 dev lo table $ROUTE_TABLE"
        say "# ip -6 route replace local ::/0 dev lo table $ROUTE_TABLE"
        say "# ip -4 rule add fwmark $TPROXY_MARK lookup $ROUTE_TABLE priority $RULE_PRIORITY"
        say "# ip -6 rule add fwmark $TPROXY_MARK lookup $ROUTE_TABLE priority $RULE_PRIORITY"
    fi
}

# The whole table. Creating it before deleting it makes the script right whether it is there or not.
nft_script() {
    say "table $TABLE"
    say "delete table $TABLE"
    say "table $TABLE {"
    print_set excluded_v4 ipv4_addr "${EXCLUDES_V4[@]}"
    print_set excluded_v6 ipv6_addr "${EXCLUDES_V6[@]}"
    "chains_$MODE"
    if captures_others; then
        chains_nowhere
    fi
    if [[ $DROP_REST ]]; then
        chains_drop_rest
    fi
    say "}"
}

# print_set NAME TYPE ELEMENT...
print_set() {
    local name=$1 type=$2 IFS=,
    shift 2
    say "    set $name {"
    say "        type $type"
    say "        flags interval"
    say "        auto-merge"
    say "        elements = { $* }"
    say "    }"
}

chains_redirect() {
    say "    chain prerouting {"
    say "        type nat hook prerouting priority dstnat; policy accept;"
    captured_jumps capture
    say "    }"
    if [[ $LOCAL ]]; then
        say "    chain output {"
        say "        type nat hook output priority -100; policy accept;"
        say "        meta l4proto tcp jump capture"
        say "    }"
    fi
    say "    chain capture {"
    left_alone
    say "        meta l4proto tcp counter redirect to :$PORT"
    say "    }"
    captures_others || return 0
    # nat sees only the first packet of what connection tracking takes for a connection. It does not
    # see what is invalid, nor a "reply" to a bare ACK from outside.
    say "    chain not_redirected {"
    say "        type filter hook prerouting priority dstnat + 1; policy accept;"
    captured_jumps rest
    say "    }"
    say "    chain rest {"
    # Turned here, or elsewhere by another table (a service's address).
    say "        ct direction original ct status dnat return"
    left_alone
    answers_of_servers
    say "        counter drop"
    say "    }"
    chains_serving
}

chains_tproxy() {
    if [[ $UNTRACKED ]]; then
        chains_untracked
    fi
    say "    chain prerouting {"
    say "        type filter hook prerouting priority mangle; policy accept;"
    # Packets of connections that Egret has accepted go to their sockets, whatever the rules say now.
    # A listener that is bound to every address is no such socket.
    say "        meta l4proto tcp socket transparent 1 socket wildcard 0" \
        "meta mark set $TPROXY_MARK accept"
    captured_jumps capture
    # What the output chain has marked comes back by the loopback interface.
    if [[ $LOCAL ]]; then
        say "        iifname lo meta mark $TPROXY_MARK jump capture"
    fi
    say "    }"
    if [[ $LOCAL ]]; then
        say "    chain output {"
        say "        type route hook output priority mangle; policy accept;"
        say "        meta l4proto tcp jump divert"
        say "    }"
        say "    chain divert {"
        left_alone
        # Answers of Egret and of every other server here belong to connections that were opened
        # from elsewhere.
        say "        ct direction original meta mark set $TPROXY_MARK"
        say "    }"
    fi
    say "    chain capture {"
    local label=
    left_alone
    if [[ ! $UNTRACKED ]]; then
        answers_of_servers
        # Not to Egret: its reset would end what a late segment belongs to.
        [[ $FAIL_OPEN ]] || say "        ct state invalid counter drop"
        label=" ct label set $LABEL_CAPTURED"
    fi
    # While no socket listens, tproxy ends its rule, and the packet goes on to the next one.
    say "        meta nfproto ipv4 meta l4proto tcp counter" \
        "tproxy ip to :$PORT meta mark set $TPROXY_MARK$label accept"
    say "        meta nfproto ipv6 meta l4proto tcp counter" \
        "tproxy ip6 to :$PORT meta mark set $TPROXY_MARK$label accept"
    [[ $FAIL_OPEN ]] || say "        counter drop"
    say "    }"
    if [[ ! $UNTRACKED ]] && captures_others; then
        chains_serving
        # The other end has no part in a captured connection. What this node has to say about one,
        # such as that a source address which the workload has made up is not there, is not for it.
        say "    chain errors {"
        say "        type filter hook output priority mangle; policy accept;"
        say "        meta l4proto { icmp, ipv6-icmp } ct state related" \
            "ct label $LABEL_CAPTURED counter drop"
        say "    }"
    fi
}

# What a captured workload says to a connection that was opened to it. Being a `reply` is not
# enough: connection tracking takes a bare ACK for a connection that it has missed the beginning of
# (nf_conntrack_tcp_loose), so two ends that agree could talk past Egret.
answers_of_servers() {
    local reply="ct direction reply ct state established"
    say "        $reply ct label $LABEL_OPENED $TCP_FLAGS == (syn | ack)" \
        "ct label set $LABEL_ANSWERED"
    say "        $reply ct label $LABEL_ANSWERED return"
    say "        $reply ct label $LABEL_OPENED tcp flags & rst == rst return"
}

# Connections to captured workloads.
chains_serving() {
    say "    chain opened {"
    say "        type filter hook postrouting priority mangle; policy accept;"
    say "        meta l4proto tcp ct state new $TCP_FLAGS == syn jump opened_from"
    say "    }"
    # A captured workload must not open a connection to itself in somebody else's name.
    say "    chain opened_from {"
    captured_rules "" return
    say "        goto opened_to"
    say "    }"
    say "    chain opened_to {"
    captured_rules to "ct label set $LABEL_OPENED"
    say "    }"
    say "    chain forward {"
    say "        type filter hook forward priority mangle; policy accept;"
    captured_rules to "meta l4proto tcp jump forward_to"
    say "    }"
    # What does not belong to a connection that began with a SYN, nor to one that is left alone.
    say "    chain forward_to {"
    if [[ $MODE == tproxy && ! $FAIL_OPEN ]]; then
        # Egret answers what was handed over. Nobody else does, from any address.
        say "        ct direction reply ct label $LABEL_CAPTURED counter drop"
    fi
    say "        ip saddr @excluded_v4 return"
    say "        ip6 saddr @excluded_v6 return"
    say "        ct state invalid counter drop"
    say "        ct state new $TCP_FLAGS != syn counter drop"
    say "    }"
}

# Netfilter takes these destinations for foreign, the kernel takes some of them for this node, and
# ::ffff:127.0.0.1 looks to a proxy like what it stands for.
chains_nowhere() {
    say "    chain nowhere {"
    say "        type filter hook prerouting priority raw; policy accept;"
    captured_rules "" "jump to_nowhere"
    say "    }"
    say "    chain to_nowhere {"
    say "        ip daddr 0.0.0.0/8 counter drop"
    say "        ip6 daddr { ::/96, ::ffff:0:0/96 } counter drop"
    say "    }"
}

# What captured workloads send past Egret. TCP that is forwarded is left alone, an answer of theirs,
# or passes by --fail-open: the other chains have seen to that.
chains_drop_rest() {
    say "    chain beside {"
    say "        type filter hook forward priority mangle + 1; policy accept;"
    captured_rules "" "jump drop_rest"
    say "    }"
    say "    chain drop_rest {"
    left_alone
    say "        ct state invalid counter drop"
    say "        ct direction reply ct state established return"
    say "        meta l4proto { icmp, ipv6-icmp } ct state related return"
    say "        meta l4proto tcp return"
    say "        udp dport != 443 return"
    say "        counter drop"
    say "    }"
}

# Both directions of both connections, before connection tracking looks at them.
chains_untracked() {
    local interface IFS=,
    say "    chain untracked_prerouting {"
    say "        type filter hook prerouting priority raw; policy accept;"
    captured_jumps untracked
    # Answers to Egret belong to a socket that has its mark, from the first SYN-ACK on.
    say "        meta l4proto tcp socket mark $MARK notrack"
    say "    }"
    say "    chain untracked {"
    left_alone
    say "        notrack"
    say "    }"
    say "    chain untracked_output {"
    say "        type filter hook output priority raw; policy accept;"
    say "        meta l4proto tcp meta mark $MARK notrack"
    # Answers to the workloads: only a transparent socket sends from an address that is not ours.
    # (Not `socket transparent`: a closed connection's last packets belong to no socket.)
    for interface in "${INTERFACES[@]}"; do
        say "        oifname \"$interface\" meta l4proto tcp fib saddr type != local notrack"
    done
    if ((${#SOURCES_V4[@]})); then
        say "        ip daddr { ${SOURCES_V4[*]} } meta l4proto tcp fib saddr type != local notrack"
    fi
    if ((${#SOURCES_V6[@]})); then
        say "        ip6 daddr { ${SOURCES_V6[*]} } meta l4proto tcp fib saddr type != local notrack"
    fi
    say "    }"
}

# captured_jumps CHAIN: the rules that pick what is captured on its way in.
captured_jumps() {
    captured_rules "" "meta l4proto tcp jump $1"
}

# captured_rules DIRECTION STATEMENT: the statement for what comes from the captured interfaces and
# sources, or with DIRECTION `to` for what goes to them.
captured_rules() {
    local interface IFS=, device=iifname address=saddr
    if [[ $1 == to ]]; then
        device=oifname
        address=daddr
    fi
    for interface in "${INTERFACES[@]}"; do
        say "        $device \"$interface\" $2"
    done
    if ((${#SOURCES_V4[@]})); then
        say "        ip $address { ${SOURCES_V4[*]} } $2"
    fi
    if ((${#SOURCES_V6[@]})); then
        say "        ip6 $address { ${SOURCES_V6[*]} } $2"
    fi
}

# captures_others: whether more than local processes is captured.
captures_others() {
    ((${#INTERFACES[@]} + ${#SOURCES_V4[@]} + ${#SOURCES_V6[@]}))
}

left_alone() {
    if [[ $MARK ]]; then
        say "        meta mark $MARK return"
    fi
    # Packets that arrive have no owner; for them this rule does not match.
    if [[ $OWNER ]]; then
        say "        meta skuid $OWNER return"
    fi
    say "        fib daddr type local return"
    say "        ip daddr @excluded_v4 return"
    say "        ip6 daddr @excluded_v6 return"
}

routes_up() {
    ip -4 route replace local 0.0.0.0/0 dev lo table $ROUTE_TABLE
    ip -6 route replace local ::/0 dev lo table $ROUTE_TABLE
    local family
    for family in -4 -6; do
        has_rule $family ||
            ip $family rule add fwmark $TPROXY_MARK lookup $ROUTE_TABLE priority $RULE_PRIORITY
    done
}

routes_down() {
    local family
    have ip || return 0
    for family in -4 -6; do
        while has_rule $family; do
            ip $family rule del fwmark $TPROXY_MARK lookup $ROUTE_TABLE priority $RULE_PRIORITY
        done
    done
    ip -4 route del local 0.0.0.0/0 dev lo table $ROUTE_TABLE 2>/dev/null || true
    ip -6 route del local ::/0 dev lo table $ROUTE_TABLE 2>/dev/null || true
}

routes_complete() {
    has_rule -4 && has_rule -6 &&
        ip -4 route show table $ROUTE_TABLE 2>/dev/null | grep -q '^local default dev lo' &&
        ip -6 route show table $ROUTE_TABLE 2>/dev/null | grep -q '^local default dev lo'
}

has_rule() {
    ip "$1" rule show priority $RULE_PRIORITY 2>/dev/null |
        grep -q "fwmark 0x3a99 lookup $ROUTE_TABLE"
}

require_nft() {
    local message
    have nft || die "nft is missing; install the package nftables"
    message=$(nft list tables 2>&1 >/dev/null) && return 0
    if [[ $message == *"not permitted"* ]]; then
        die "changing rules needs CAP_NET_ADMIN in this network namespace; run this as root"
    fi
    die "nft does not work here: $message"
}

main "$@"
