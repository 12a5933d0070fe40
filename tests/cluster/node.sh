# The node: certificates, configuration, and the programs that together are a Kubernetes cluster.
# Every start_PROGRAM can be called again after a stop, so a test can take one away for a while.
# shellcheck shell=bash

# shellcheck disable=SC2034 # used by the others
PROGRAMS="etcd apiserver controllers scheduler containerd kubelet proxy pdns coredns"

# inside COMMAND…: runs it in the namespaces of the cluster, in the same directory.
# shellcheck disable=SC2016 # expands in there
inside() {
    nsenter -t "$(init_pid)" -n -m -p -- /bin/sh -c 'cd "$1" 2>/dev/null || cd /; shift; exec "$@"' sh "$PWD" "$@"
}

# spawn PROGRAM COMMAND…: a daemon in there. The shell that starts it ends, so that the cluster's first
# process becomes its parent and nothing outside has to stay for it. The pid is that inside.
# shellcheck disable=SC2016
spawn() {
    local program=$1
    shift
    inside /bin/sh -c 'log=$1 pid=$2; shift 2; setsid "$@" </dev/null >>"$log" 2>&1 9>&- & echo $! >"$pid"' \
        sh "$STATE/log/$program.log" "$STATE/pids/$program" "$@"
}

stop_program() {
    local pid
    pid=$(cat "$STATE/pids/$1" 2>/dev/null) || return 0
    # KILL, not TERM: whoever stops a program here wants to see what others do when it is gone.
    inside kill -KILL "$pid" 2>/dev/null || true
    wait_for 10 "$STATE/log/$1.log" "the end of $1" inside_gone "$pid"
    rm -f "$STATE/pids/$1"
}
inside_gone() { ! inside kill -0 "$1"; }

program_runs() {
    local pid
    pid=$(cat "$STATE/pids/$1" 2>/dev/null) && [[ -n $pid ]] && inside kill -0 "$pid" 2>/dev/null
}

# Certificates and tokens. Every part has the identity that it has in a real cluster, so that the rules of
# RBAC and of the node authorizer are the real ones too.
make_secrets() {
    local pki=$STATE/pki user
    mkdir -p "$pki"
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/ca.key"
    openssl req -x509 -new -key "$pki/ca.key" -days 3650 -subj /CN=vmail-test-cluster -out "$pki/ca.crt"
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/api.key"
    openssl req -new -key "$pki/api.key" -subj /CN=kube-apiserver -out "$pki/api.csr"
    openssl x509 -req -in "$pki/api.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 \
        -extfile <(echo "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP") \
        -out "$pki/api.crt" 2>/dev/null
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/sa.key"
    openssl ec -in "$pki/sa.key" -pubout -out "$pki/sa.pub" 2>/dev/null
    {
        echo "$(token admin),admin,admin,system:masters"
        echo "$(token kubelet),system:node:$NODE_NAME,kubelet,system:nodes"
        echo "$(token controllers),system:kube-controller-manager,controllers"
        echo "$(token scheduler),system:kube-scheduler,scheduler"
        echo "$(token proxy),system:kube-proxy,proxy"
        echo "$(token coredns),system:coredns,coredns"
    } >"$pki/tokens.csv"
    for user in admin kubelet controllers scheduler proxy coredns; do
        write_kubeconfig "$user" >"$pki/$user.kubeconfig"
    done
    cp "$pki/admin.kubeconfig" "$STATE/kubeconfig"
    chmod 0600 "$pki"/* "$STATE/kubeconfig"
}

token() {
    openssl rand -hex 20 | tee "$STATE/pki/$1.token"
}

write_kubeconfig() {
    cat <<EOF
apiVersion: v1
kind: Config
clusters:
  - name: $NAME
    cluster:
      server: https://$NODE_IP:6443
      certificate-authority-data: $(base64 -w0 "$STATE/pki/ca.crt")
users:
  - name: $1
    user:
      token: $(cat "$STATE/pki/$1.token")
contexts:
  - name: $NAME
    context: {cluster: $NAME, user: $1}
current-context: $NAME
EOF
}

start_etcd() {
    # Nothing is synced to disk: the cluster does not outlive the machine anyway, and this is most of the
    # time of a write.
    spawn etcd "$KUBE/etcd" --name node --data-dir "$STATE/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster node=http://127.0.0.1:2380 --log-level warn
}

start_apiserver() {
    local pki=$STATE/pki
    spawn apiserver "$KUBE/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
        --advertise-address "$NODE_IP" --secure-port 6443 --service-cluster-ip-range "$SERVICE_NET" \
        --tls-cert-file "$pki/api.crt" --tls-private-key-file "$pki/api.key" --token-auth-file "$pki/tokens.csv" \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --kubelet-preferred-address-types InternalIP --allow-privileged=true --profiling=false
}

start_controllers() {
    spawn controllers "$KUBE/kube-controller-manager" --kubeconfig "$STATE/pki/controllers.kubeconfig" \
        --use-service-account-credentials --service-account-private-key-file "$STATE/pki/sa.key" \
        --root-ca-file "$STATE/pki/ca.crt" --leader-elect=false --bind-address 127.0.0.1 --profiling=false
}

start_scheduler() {
    spawn scheduler "$KUBE/kube-scheduler" --kubeconfig "$STATE/pki/scheduler.kubeconfig" \
        --leader-elect=false --bind-address 127.0.0.1 --profiling=false
}

start_proxy() {
    # The conntrack settings belong to the whole machine, so kube-proxy is told to leave them alone.
    spawn proxy "$KUBE/kube-proxy" --kubeconfig "$STATE/pki/proxy.kubeconfig" --hostname-override "$NODE_NAME" \
        --proxy-mode iptables --cluster-cidr "$POD_NET" --oom-score-adj 0 --conntrack-max-per-core 0 \
        --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
}

write_containerd_config() {
    local snapshotter=overlayfs
    # One overlay does not carry another; copies are slow, but they work everywhere.
    [[ $(stat -f -c %T "$STATE") != overlayfs ]] || snapshotter=native
    mkdir -p "$STATE/cni"
    # Every pod hangs on a link of its own, without a bridge between them: whatever one pod sends to another
    # passes through iptables, whether or not the kernel lets bridged packets do so.
    cat >"$STATE/cni/10-pods.conflist" <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1500,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "${POD_NET%/*}/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
EOF
    # restrict_oom_score_adj: without the right to lower it (root in many containers and virtual machines has
    # none), no sandbox would start.
    cat >"$STATE/containerd.toml" <<EOF
version = 2
root = "$STATE/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "$CONTAINERD_SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/vmail-busybox:dev"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
EOF
}

start_containerd() {
    spawn containerd containerd --config "$STATE/containerd.toml"
}

cri_has_image() {
    inside ctr --address "$CONTAINERD_SOCKET" -n k8s.io images ls "name==$1" \
        | grep -q io.cri-containerd.image=managed
}

write_kubelet_config() {
    # No image is ever collected and no pod evicted because the machine's disk is nearly full: neither could
    # be had again. The kubelet's own port lets everyone in, since only the cluster can reach it. A container that
    # ended is started again within seconds however often it did, not within five minutes: tests end many.
    cat >"$STATE/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
clusterDNS: [$DNS_SERVICE_IP]
clusterDomain: cluster.local
resolvConf: $STATE/resolv.conf
podLogsDir: $STATE/pod-logs
volumePluginDir: $STATE/volume-plugins
registerNode: true
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 0.5%, nodefs.inodesFree: 0.5%, imagefs.available: 0.5%}
shutdownGracePeriod: 0s
crashLoopBackOff: {maxContainerRestartPeriod: 5s}
EOF
}

start_kubelet() {
    # A kubelet that finds no runtime ends, and here nothing starts it again.
    wait_for 30 "$STATE/log/containerd.log" "containerd's answer" containerd_ready
    spawn kubelet "$KUBE/kubelet" --config "$STATE/kubelet.yaml" --kubeconfig "$STATE/pki/kubelet.kubeconfig" \
        --root-dir "$STATE/kubelet" --cert-dir "$STATE/kubelet/pki" --hostname-override "$NODE_NAME" \
        --node-ip "$NODE_IP"
}

# A cgroup of our own, because the kubelet kills every pod below its root that it does not know: two
# clusters with one root would kill each other's pods.
cgroup_mounts() {
    awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts
}

make_cgroups() {
    local mount dir
    while read -r mount; do
        dir=$mount/$CGROUP
        mkdir -p "$dir"
        # In a fresh cpuset of version 1 nothing may run until it is told on which processors.
        [[ -f $dir/cpuset.mems && ! -f $dir/cgroup.controllers ]] || continue
        cat "$mount/cpuset.cpus" >"$dir/cpuset.cpus"
        cat "$mount/cpuset.mems" >"$dir/cpuset.mems"
    done < <(cgroup_mounts)
}

remove_cgroups() {
    local mount
    while read -r mount; do
        [[ -d $mount/$CGROUP ]] || continue
        wait_for 10 /dev/null "the removal of the control group $mount/$CGROUP" remove_tree_of_cgroups "$mount/$CGROUP"
    done < <(cgroup_mounts)
}
remove_tree_of_cgroups() {
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [[ ! -d $1 ]]
}
