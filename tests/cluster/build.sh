# What is built once and kept in the cache: the Kubernetes programs, helm and its tests, CoreDNS, the base of all images,
# and what tests ask.
# shellcheck shell=bash

# A cluster that calls itself v0.0.0 is refused by every chart that says which versions it supports.
kube_version() { sed -n 's/^require k8s.io\/kubernetes //p' "$HERE/go.mod"; }

go_flags() {
    local version minor
    version=$(kube_version)
    minor=${version#v1.}
    minor=${minor%%.*}
    printf -- '-s -w'
    local package
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf ' -X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s -X %s.gitTreeState=clean' \
            "$package" "$version" "$package" "$package" "$minor" "$package"
    done
}

kube_dir() { echo "$CACHE/kubernetes-$(key "$HERE/go.mod" "$HERE/go.sum" -- "$(go_flags)")"; }
helm_dir() { echo "$CACHE/helm-$(key "$HERE/helm/go.mod" "$HERE/helm/go.sum")"; }
coredns_dir() { echo "$CACHE/coredns-$(key "$HERE"/coredns/{go.mod,go.sum,main.go})"; }
unittest_dir() { echo "$CACHE/helm-unittest-$(key "$HERE"/../chart/{go.mod,go.sum})"; }
monitoring_dir() { echo "$CACHE/monitoring-$(key "$HERE"/../chart/monitoring/{go.mod,go.sum})"; }
health_dir() { echo "$CACHE/health-$(key "$HERE"/../health/{go.mod,go.sum,*.go})"; }
base_dir() { echo "$CACHE/base-$(key -- "${BASE_RECIPE[@]}" "$(dpkg --print-architecture)")"; }
busybox_dir() { echo "$CACHE/busybox-$(key "$(command -v busybox)" "$HERE/busybox/Containerfile")"; }

# Debian 13: its Postfix is the one that the images ship.
BASE_RECIPE=(--variant=minbase --include=ca-certificates trixie)

# go_build OUTPUT MODULE-DIRECTORY PACKAGE…
# `nice`, because a build of this size would starve whatever else the machine is doing.
go_build() {
    local out=$1 module=$2
    shift 2
    (cd "$module" && CGO_ENABLED=0 nice go build -trimpath -ldflags="$(go_flags)" -o "$out/" "$@") &
    watch_build $!
}

# Says every half minute that a build is still going: a cold one takes minutes without a word.
watch_build() {
    local pid=$1 next=$((SECONDS + 30))
    while kill -0 "$pid" 2>/dev/null; do
        if ((SECONDS >= next)); then
            say "still building"
            next=$((SECONDS + 30))
        fi
        sleep 0.2
    done
    wait "$pid"
}

make_kube() {
    need go
    say "building Kubernetes $(kube_version) and etcd (about 6 minutes on two cores)"
    local program packages=()
    for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
        packages+=("k8s.io/kubernetes/cmd/$program")
    done
    go_build "$1" "$HERE" "${packages[@]}" go.etcd.io/etcd/server/v3
    mv "$1/server" "$1/etcd"
}

make_helm() {
    need go
    say "building helm (about 2 minutes)"
    go_build "$1" "$HERE/helm" helm.sh/helm/v4/cmd/helm
}

make_unittest() {
    need go
    say "building helm-unittest (about 1 minute)"
    go_build "$1" "$HERE/../chart" github.com/helm-unittest/helm-unittest/cmd/helm-unittest
}

# Files of a module: definitions that nobody compiles.
make_monitoring() {
    need go
    local module=github.com/prometheus-operator/prometheus-operator dir kind
    dir=$(cd "$HERE/../chart/monitoring" && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    for kind in podmonitors prometheusrules; do
        cp "$dir/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$1/$kind.yaml"
    done
    chmod 0644 "$1"/*.yaml
}

make_coredns() {
    need go
    say "building CoreDNS (about 1 minute)"
    go_build "$1" "$HERE/coredns" .
}

# See tests/health.
make_health() {
    need go
    say "building the health checks of GitOps tools (about 1 minute)"
    go_build "$1" "$HERE/../health" .
}

make_base() {
    need mmdebstrap
    say "making the base image (about 20 seconds)"
    mmdebstrap --quiet "${BASE_RECIPE[@]}" "$1/base.tar" >&2
}

# The pod sandbox, and a small image for tests: every pod needs an image that holds its namespaces.
make_busybox() {
    need buildah busybox
    say "making the busybox image"
    mkdir "$1/context"
    cp "$(command -v busybox)" "$1/context/busybox"
    in_store build -q -f "$HERE/busybox/Containerfile" -t localhost/vmail-busybox:dev "$1/context" >/dev/null
    in_store push -q localhost/vmail-busybox:dev "oci-archive:$1/image.tar:localhost/vmail-busybox:dev" >&2
    rm -rf "$1/context"
}

cmd_build() {
    make_cached "$(base_dir)" make_base
    make_cached "$(busybox_dir)" with_store make_busybox
    make_cached "$(coredns_dir)" make_coredns
    make_cached "$(helm_dir)" make_helm
    make_cached "$(unittest_dir)" make_unittest
    make_cached "$(monitoring_dir)" make_monitoring
    make_cached "$(health_dir)" make_health
    make_cached "$(kube_dir)" make_kube
    say "everything is built, in $CACHE"
}
