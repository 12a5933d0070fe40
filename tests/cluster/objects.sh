# The objects that a cluster needs before anyone uses it: the DNS service, and volumes.
# shellcheck shell=bash

kubectl_in() { inside "$KUBE/kubectl" --kubeconfig "$STATE/kubeconfig" "$@"; }

dns_objects() {
    cat <<EOF
# CoreDNS runs beside the cluster's programs, not in a pod: it is there before the first pod is.
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: $DNS_SERVICE_IP
  ports:
    - {name: dns, port: 53, protocol: UDP}
    - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-node, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints:
  - {addresses: [$NODE_IP], conditions: {ready: true}}
ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
  - {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: User, name: system:coredns}
EOF
}

# Volumes of type local, because these honour fsGroup; hostPath ones do not. They are made beforehand, and
# bound when a pod wants one. What is in them stays when the claim goes, as on a careful cluster.
volume_objects() {
    local i
    cat <<EOF
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
reclaimPolicy: Retain
volumeBindingMode: WaitForFirstConsumer
EOF
    for ((i = 1; i <= VOLUMES; i++)); do
        mkdir -p "$STATE/volumes/$i"
        volume_object "$i"
    done
}

volume_object() {
    cat <<EOF
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: local-$1}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: $STATE/volumes/$1}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$NODE_NAME]}]
EOF
}

# A volume whose claim is gone stays Released, with its data, for ever. A test run that installs and removes
# the chart many times needs fresh ones: this empties the released ones and puts them up again.
cmd_volumes() {
    local name i
    require_up
    for name in $(kubectl_in get pv -o 'jsonpath={.items[?(@.status.phase=="Released")].metadata.name}'); do
        i=${name#local-}
        kubectl_in delete pv "$name" --wait=true >/dev/null
        find "$STATE/volumes/$i" -mindepth 1 -delete
        volume_object "$i" | kubectl_in create -f - >/dev/null
        say "volume $name is empty and free again"
    done
}
