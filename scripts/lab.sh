#!/usr/bin/env bash
# lab.sh: three network namespaces that stand for a workload, its node and the world outside.
#
#     scripts/lab.sh up     [--name NAME]      make the lab; a lab that is already up is left alone
#     scripts/lab.sh down   [--name NAME]      remove what `up` made
#     scripts/lab.sh status [--name NAME]      say whether it is up; exit 0 up, 3 down
#     scripts/lab.sh enter  COMMAND [ARG...]   run a command as root; without root, as the root of
#                                              a user namespace in which labs can be made
#
# NAME (default: egret) is the first part of the namespaces' names; several labs live side by side
# because nothing is shared between them. `up` and `down` need root, or run under `enter`.
#
#     NAME-pod                     NAME-node                              NAME-out
#     eth0 --------------------- pod0  (forwards)  out0 ------------------- eth0
#     10.77.1.2/24       10.77.1.1/24  203.0.113.1/24        203.0.113.10 .. .14/24
#     fd77:1::2/64       fd77:1::1/64  fd77:2::1/64          fd77:2::10  ..  ::14/64
#
# pod and out use the node as their gateway, for both address families. Duplicate address
# detection is off, so that every address can be used at once; `lo` is up everywhere.
set -euo pipefail

# shellcheck source=scripts/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

PARTS=(pod node out)
# The alias of pod0 in a lab that was made to the end.
COMPLETE=lab-complete

main() {
    local command=${1:-} name=egret
    case $command in
        -h | --help | help) print_header "$0" && exit 0 ;;
        enter)
            shift
            (($#)) || usage_error "enter needs a command"
            become_root "$@"
            exec "$@"
            ;;
        up | down | status) shift ;;
        "") usage_error "a command is missing: up, down, status or enter" ;;
        *) usage_error "unknown command '$command'" ;;
    esac
    while (($#)); do
        case $1 in
            --name)
                (($# >= 2)) || usage_error "--name needs a value"
                name=$2
                shift 2
                ;;
            -h | --help) print_header "$0" && exit 0 ;;
            *) usage_error "unknown option '$1'" ;;
        esac
    done
    [[ $name =~ ^[A-Za-z0-9_-]{1,40}$ ]] ||
        usage_error "--name takes letters, digits, '-' and '_', not '$name'"
    have ip || die "ip is missing; install the package iproute2"
    "lab_$command" "$name"
}

lab_up() {
    local name=$1
    require_root
    if is_up "$name"; then
        return 0
    fi
    # Half a lab is what a killed `up` leaves behind.
    remove "$name"
    # Whatever fails from here on ends the script, and nothing is left behind.
    trap 'remove "'"$name"'"; say "lab.sh: error: could not make the lab; see above" >&2' EXIT
    make "$name"
    trap - EXIT
}

lab_down() {
    require_root
    remove "$1"
}

lab_status() {
    local name=$1
    if is_up "$name"; then
        say "lab '$name' is up: $name-pod, $name-node, $name-out"
        exit 0
    fi
    say "lab '$name' is down"
    exit 3
}

make() {
    local pod=$1-pod node=$1-node out=$1-out i

    for i in "$pod" "$node" "$out"; do
        ip netns add "$i"
        # Before any link exists, so that no address is ever tentative.
        set_sysctl "$i" net/ipv6/conf/default/accept_dad 0
        set_sysctl "$i" net/ipv6/conf/default/accept_ra 0
        ip -n "$i" link set lo up
    done

    ip -n "$pod" link add eth0 type veth peer name pod0 netns "$node"
    ip -n "$pod" addr add 10.77.1.2/24 dev eth0
    ip -n "$pod" addr add fd77:1::2/64 dev eth0 nodad
    ip -n "$node" addr add 10.77.1.1/24 dev pod0
    ip -n "$node" addr add fd77:1::1/64 dev pod0 nodad

    ip -n "$out" link add eth0 type veth peer name out0 netns "$node"
    ip -n "$node" addr add 203.0.113.1/24 dev out0
    ip -n "$node" addr add fd77:2::1/64 dev out0 nodad
    for i in 10 11 12 13 14; do
        ip -n "$out" addr add "203.0.113.$i/24" dev eth0
        ip -n "$out" addr add "fd77:2::$i/64" dev eth0 nodad
    done

    ip -n "$pod" link set eth0 up
    ip -n "$node" link set pod0 up
    ip -n "$node" link set out0 up
    ip -n "$out" link set eth0 up

    ip -n "$pod" route add default via 10.77.1.1
    ip -n "$pod" -6 route add default via fd77:1::1
    ip -n "$out" route add default via 203.0.113.1
    ip -n "$out" -6 route add default via fd77:2::1
    set_sysctl "$node" net/ipv4/ip_forward 1
    set_sysctl "$node" net/ipv6/conf/all/forwarding 1

    # The last step: `status` and a second `up` look for this alias.
    ip -n "$node" link set dev pod0 alias "$COMPLETE"
}

is_up() {
    local part
    for part in "${PARTS[@]}"; do
        [[ -e /run/netns/$1-$part ]] || return 1
    done
    [[ $(ip -n "$1-node" link show dev pod0 2>/dev/null) == *"alias $COMPLETE"* ]]
}

# The links go first: a process that still lives in a namespace would keep them alive.
remove() {
    local part
    for part in "${PARTS[@]}"; do
        [[ -e /run/netns/$1-$part ]] || continue
        ip -n "$1-$part" link del eth0 2>/dev/null || true
        ip netns del "$1-$part" || true
    done
}

# set_sysctl NAMESPACE KEY VALUE, with / in the key; not every machine has sysctl(8).
set_sysctl() {
    nsenter --net="/run/netns/$1" -- tee "/proc/sys/$2" <<<"$3" >/dev/null
}

require_root() {
    ((EUID == 0)) || die "needs root; as an ordinary user run: scripts/lab.sh enter COMMAND," \
        "which gives COMMAND a user namespace in which labs can be made"
    if ! mkdir -p /run/netns 2>/dev/null || [[ ! -w /run/netns ]]; then
        die "/run/netns cannot be written; run under: scripts/lab.sh enter COMMAND"
    fi
}

main "$@"
