#!/bin/bash
# The first process in a cluster's namespaces: prepares mounts and network, then does nothing but take in
# the orphans of others. When it dies, the kernel ends every process and every mount of the cluster.
#
#   init.sh STATE NODE_IP SERVICE_NET
set -euo pipefail
state=$1 node_ip=$2 service_net=$3

# Mounts made from here on travel to the containers below, and never to the machine: unshare has cut that.
mount --make-rshared /

# Places whose paths are compiled into kubelet, containerd and the CNI plugins. Each cluster sees its own.
# /run also keeps the iptables lock and the control sockets of other daemons of the machine apart.
case $state in
    /run/* | /var/run/*) echo "the state directory must not be below /run, it is hidden in there" >&2; exit 1 ;;
esac
mount -t tmpfs -o mode=0755,size=256m run /run
mkdir -p /run/lock "$state/var-log"
mount --bind "$state/var-log" /var/log
mount --bind "$state/var-lib-cni" /var/lib/cni

# Whoever asks in here is answered by the cluster's DNS. The file is often a link into /run.
resolv=$(readlink -m /etc/resolv.conf)
if [[ ! -e $resolv ]]; then
    mkdir -p "$(dirname "$resolv")"
    : >"$resolv"
fi
mount --bind "$state/resolv.conf" "$resolv"

# kubelet insists on some settings of the kernel that belong to the whole machine. It is shown the values that
# it wants, and so writes nothing.
while read -r name value; do
    file=/proc/sys/$name
    [[ -e $file && $(cat "$file") != "$value" ]] || continue
    echo "$value" >"$state/sysctl-${name//\//-}"
    mount --bind "$state/sysctl-${name//\//-}" "$file"
done <<'EOF'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
EOF

# A bridge without ports carries the node's address: it is there in every kernel that has containers, while
# a dummy device is not. The API server does not let itself be advertised on a loopback address.
ip link set lo up
ip link add node0 type bridge
ip addr add "$node_ip/24" dev node0
ip link set node0 up
# Without any route the kernel refuses to connect to a service address before iptables can translate it.
# There is no default route: what is not part of the cluster is refused at once instead of timing out.
ip route add "$service_net" dev node0 src "$node_ip"
echo 1 >/proc/sys/net/ipv4/ip_forward

: >"$state/init-done"

# bash reaps whatever is handed to it while it waits in here.
mkfifo "$state/never"
exec 3<>"$state/never"
trap : CHLD
while :; do
    read -r _ <&3 || true
done
