# What every part of the cluster script uses: speaking, waiting, and where things are.
# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the others

CACHE=${VMAIL_CACHE:-$HOME/.cache/vmail-operator}
STATES=${VMAIL_STATE:-/var/tmp/vmail-operator}
IMAGES=$(cd "$HERE/../../images" && pwd)

# The addresses are the same in every cluster: each has a network of its own, which nothing leaves.
# 198.18.0.0/15 is kept for tests by RFC 2544, so no resolver and no mail server treats it as private.
NODE_NAME=node
NODE_IP=198.18.0.1
POD_NET=10.244.0.0/16
SERVICE_NET=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
DNS_SERVICE_IP=10.96.0.10
PDNS_API_PORT=8081
PDNS_DNS_PORT=5300
CNI_BIN=/usr/lib/cni
# In the /run that each cluster has for itself: below the state directory it could get too long for a socket.
CONTAINERD_SOCKET=/run/containerd/containerd.sock
TEST_ZONES="example.org example.net example.test"
VOLUMES=16

say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }
die() { printf 'cluster: %s\n' "$*" >&2; exit 1; }

# need PROGRAM…: a missing one is named together with the command that brings it.
need() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null \
            || die "the program '$program' is missing; 'tests/cluster/cluster install' installs what is needed"
    done
}

# wait_for SECONDS LOG WHAT COMMAND…: until COMMAND succeeds. Past the deadline the end of LOG is shown,
# because that is where the reason stands.
wait_for() {
    local limit=$1 log=$2 what=$3 end said
    shift 3
    end=$((SECONDS + limit))
    until said=$("$@" 2>&1); do
        if ((SECONDS >= end)); then
            [[ -z $said ]] || printf 'The last try said:\n%s\n' "$(tail -n 10 <<<"$said")" >&2
            if [[ -s $log ]]; then
                printf -- '--- end of %s\n' "$log" >&2
                tail -n 25 "$log" >&2
                printf -- '---\n' >&2
            fi
            die "$what did not happen within $limit s; the log is $log"
        fi
        sleep 0.1
    done
}

# key FILE… [-- WORD…]: a short hash over the files' contents and the words.
key() {
    local files=()
    while (($#)) && [[ $1 != -- ]]; do files+=("$1"); shift; done
    { ((${#files[@]} == 0)) || cat "${files[@]}"; printf '%s\n' "$@"; } | sha256sum | cut -c1-12
}

# make_cached DIRECTORY FUNCTION ARGUMENT…: FUNCTION fills a new directory (its first argument) which then
# takes its place in one step, so a half-made one is never found. Two callers at once make it once.
make_cached() {
    local dir=$1 work
    shift
    [[ -d $dir ]] && return 0
    mkdir -p "$CACHE"
    (
        flock 9
        [[ -d $dir ]] && exit 0
        work=$(mktemp -d "$CACHE/.work.XXXXXX")
        # The function inherits errexit only when it is not part of a condition, hence no `if` here.
        trap 'rm -rf "$work"' EXIT
        "$1" "$work" "${@:2}" 9>&-
        chmod 0755 "$work"
        mv "$work" "$dir"
    ) 9>"$dir.lock"
}
