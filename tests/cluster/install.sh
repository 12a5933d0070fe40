# The Debian (or Ubuntu) packages that everything here is made of.
# shellcheck shell=bash

# program or file → package
PACKAGES="
containerd                              containerd
runc                                    runc
/usr/lib/cni/ptp                        containernetworking-plugins
iptables                                iptables
conntrack                               conntrack
ethtool                                 ethtool
socat                                   socat
strace                                  strace
ip                                      iproute2
mount                                   mount
nsenter                                 util-linux
ps                                      procps
mmdebstrap                              mmdebstrap
/usr/share/keyrings/debian-archive-keyring.gpg  debian-archive-keyring
buildah                                 buildah
/bin/busybox                            busybox-static
openssl                                 openssl
promtool                                prometheus
curl                                    curl
/etc/ssl/certs/ca-certificates.crt      ca-certificates
dig                                     bind9-dnsutils
pdns_server                             pdns-server
/usr/share/doc/pdns-backend-sqlite3     pdns-backend-sqlite3
sqlite3                                 sqlite3
jq                                      jq
git                                     git
"

POLICY=/usr/sbin/policy-rc.d

missing_packages() {
    local what package
    while read -r what package; do
        [[ -n $what ]] || continue
        if [[ $what == /* ]]; then
            [[ -e $what ]] || echo "$package"
        else
            command -v "$what" >/dev/null || echo "$package"
        fi
    done <<<"$PACKAGES"
}

# Packages start their services when they are installed. The cluster runs its own in its own network, so a
# containerd or a PowerDNS of the machine would only be in the way: while this installs, none may start.
forbid_services() {
    [[ ! -e $POLICY.before-vmail ]] || return 0
    if [[ -e $POLICY ]]; then mv "$POLICY" "$POLICY.before-vmail"; else : >"$POLICY.before-vmail"; fi
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 0755 "$POLICY"
}

restore_services() {
    [[ -e $POLICY.before-vmail ]] || return 0
    if [[ -s $POLICY.before-vmail ]]; then mv "$POLICY.before-vmail" "$POLICY"; else rm -f "$POLICY" "$POLICY.before-vmail"; fi
}

cmd_install() {
    local missing
    # An empty place to mount on: the CNI plugins keep what they know below it, and cannot be told otherwise.
    mkdir -p /var/lib/cni
    missing=$(missing_packages | sort -u | tr '\n' ' ')
    if [[ -z ${missing// /} ]]; then
        say "everything needed is installed"
    else
        command -v apt-get >/dev/null \
            || die "this machine has no apt-get; install by hand what corresponds to Debian's: $missing"
        say "installing $missing"
        trap restore_services EXIT
        forbid_services
        # A list of packages that is there and fresh needs no second look.
        # shellcheck disable=SC2086 # several words
        apt_get install $missing || { apt_get update && apt_get install $missing; }
        restore_services
        trap - EXIT
        missing=$(missing_packages | sort -u | tr '\n' ' ')
        [[ -z ${missing// /} ]] || die "still missing after the installation: $missing"
    fi
    command -v go >/dev/null \
        || say "note: there is no Go; 'cluster build' needs 1.21 or newer (it fetches the exact one itself)"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
        "$1" -y --no-install-recommends "${@:2}" >&2
}
