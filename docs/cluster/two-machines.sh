#!/usr/bin/env bash
# Two plain machines on one Linux computer: two network namespaces joined by a cable (a veth pair). Each has its own
# network, host name, processes, /tmp and /dev/shm, and its own Ray. They share the folder SHARED, and programs and
# files that nobody writes. A command is run on the first of them, then both are taken down. Needs root, iproute2 and
# util-linux.
#
#   docs/cluster/two-machines.sh SHARED COMMAND…
#
# COMMAND is run in SHARED; RAY_ADDRESS in its environment is the address of the cluster. Set RAY (the program `ray`),
# CPUS (of each machine, default 1), LOSE (seconds after which the second machine loses its power; default never),
# SETUP (a script that is run on each machine in place of `ray start`, with MACHINE and HEAD in its environment).
set -euo pipefail

if [ $# -lt 2 ] || [ ! -d "$1" ]; then
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "two-machines.sh: only root can make network namespaces." >&2
    exit 2
fi

shared=$(realpath "$1")
shift
ray=$(command -v "${RAY:-ray}") || ray=
if [ -z "$ray" ] && [ -z "${SETUP:-}" ]; then
    echo "two-machines.sh: there is no program 'ray': set RAY, or pip install 'emscope[ray]'." >&2
    exit 2
fi
cpus=${CPUS:-1}
name=em$$
state=$(mktemp -d /var/tmp/two-machines.XXXXXX)
head=10.77.0.1 worker=10.77.0.2 port=6399
holders=()

take_down() {
    trap - EXIT INT TERM HUP
    for holder in "${holders[@]}"; do
        kill -KILL "$holder" 2>/dev/null || true # with the first process of a machine all of its processes end
    done
    ip netns del "$name-head" 2>/dev/null || true
    ip netns del "$name-worker" 2>/dev/null || true
    rm -rf "$state"
}
trap take_down EXIT
trap 'exit 130' INT TERM HUP

# -- the machines ------------------------------------------------------------------------------------------------------

make_machine() { # name, address
    local machine=$1 address=$2
    mkdir "$state/$machine"
    ip netns add "$name-$machine"
    ip link set "$name-$machine" netns "$name-$machine" name eth0
    ip -n "$name-$machine" addr add "$address/24" dev eth0
    ip -n "$name-$machine" link set eth0 up
    ip -n "$name-$machine" link set lo up

    # its first process holds its mounts, processes and host name; everything else enters through it
    ip netns exec "$name-$machine" unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc \
        /bin/bash -c "
            hostname $machine
            mount -t tmpfs -o size=2g tmpfs /dev/shm
            mount --bind $state/$machine /tmp
            mount --bind $state/hosts /etc/hosts
            touch /tmp/up
            exec sleep infinity" &
    holders+=($!)
    disown
    for _ in $(seq 100); do
        [ -e "$state/$machine/up" ] && return
        sleep 0.1
    done
    echo "two-machines.sh: the machine $machine did not come up." >&2
    exit 1
}

on() { # a machine's first process, as this computer counts; command …
    local pid=$1
    shift
    nsenter --target "$pid" --mount --uts --ipc --net --pid --wd="$shared" -- "$@"
}

printf '127.0.0.1 localhost\n%s head\n%s worker\n' "$head" "$worker" >"$state/hosts"
ip link add "$name-head" type veth peer name "$name-worker"
make_machine head "$head"
make_machine worker "$worker"
head_pid=$(pgrep -P "${holders[0]}")
worker_pid=$(pgrep -P "${holders[1]}")

# -- Ray, as on any two machines -----------------------------------------------------------------------------------------

common=(--num-cpus "$cpus" --num-gpus 0 --object-store-memory 200000000 --disable-usage-stats)

set_up() { # machine, its first process, its address
    local log=$state/$1.log
    if [ -n "${SETUP:-}" ]; then
        on "$2" env MACHINE="$1" HEAD="$head" bash "$SETUP" >"$log" 2>&1
    elif [ "$1" = head ]; then
        on "$2" "$ray" start --head --node-ip-address "$3" --port "$port" --include-dashboard=false "${common[@]}" >"$log" 2>&1
    else
        on "$2" "$ray" start --address "$head:$port" --node-ip-address "$3" "${common[@]}" >"$log" 2>&1
    fi || { cat "$log" >&2; exit 1; }
}

set_up head "$head_pid" "$head"
set_up worker "$worker_pid" "$worker"

# -- the command ---------------------------------------------------------------------------------------------------------

if [ -n "${LOSE:-}" ]; then
    (sleep "$LOSE" && kill -KILL "$worker_pid") &
    holders+=($!)
    disown
fi
code=0
on "$head_pid" env MACHINE=head HEAD="$head" RAY_ADDRESS="$head:$port" "$@" || code=$?
exit "$code"
