# Names: CoreDNS for the cluster, and the real PowerDNS whose zones the operator writes to.
#
# Pods ask CoreDNS at the cluster's DNS service. It knows cluster.local itself and asks PowerDNS for the test
# zones, without a cache between them, so a change can be seen by the next query.
# shellcheck shell=bash

write_coredns_config() {
    # Other names do not exist, and that is said: to a mail server a refusal would mean "ask again later".
    cat >"$STATE/Corefile" <<EOF
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
    bind $NODE_IP
    errors
    ready $NODE_IP:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $STATE/pki/coredns.kubeconfig
        pods insecure
        ttl 0
    }
}
$(for zone in $TEST_ZONES; do printf '%s:53 ' "$zone"; done){
    bind $NODE_IP
    errors
    forward . $NODE_IP:$PDNS_DNS_PORT {
        max_fails 0
    }
}
.:53 {
    bind $NODE_IP
    errors
    template ANY ANY {
        rcode NXDOMAIN
    }
}
EOF
    printf 'nameserver %s\nsearch svc.cluster.local cluster.local\noptions timeout:2\n' "$NODE_IP" >"$STATE/resolv.conf"
}

start_coredns() {
    spawn coredns "$(coredns_dir)/coredns" -conf "$STATE/Corefile"
}

# The database's schema comes with Debian's package, at one of two places.
pdns_schema() {
    local file
    for file in /usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql \
        /usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql; do
        [[ -f $file ]] && { echo "$file"; return 0; }
    done
    die "the schema of pdns-backend-sqlite3 was not found below /usr/share; is the package installed whole?"
}

write_pdns_config() {
    mkdir -p "$STATE/pdns"
    [[ -f $STATE/pdns/api-key ]] || (umask 077 && openssl rand -hex 20 >"$STATE/pdns/api-key")
    [[ -f $STATE/pdns/zones.sqlite3 ]] || sqlite3 "$STATE/pdns/zones.sqlite3" <"$(pdns_schema)"
    # Every cache is off: a test looks right after a write.
    (umask 077 && cat >"$STATE/pdns/pdns.conf") <<EOF
launch=gsqlite3
gsqlite3-database=$STATE/pdns/zones.sqlite3
socket-dir=/run
local-address=$NODE_IP
local-port=$PDNS_DNS_PORT
api=yes
api-key=$(cat "$STATE/pdns/api-key")
webserver=yes
webserver-address=$NODE_IP
webserver-port=$PDNS_API_PORT
webserver-allow-from=0.0.0.0/0
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
default-ttl=60
guardian=no
daemon=no
EOF
}

start_pdns() {
    spawn pdns pdns_server --config-dir="$STATE/pdns"
}

pdns_api() {
    local method=$1 path=$2
    shift 2
    inside curl -sS --fail-with-body -m 10 -X "$method" -H "X-API-Key: $(cat "$STATE/pdns/api-key")" \
        "http://$NODE_IP:$PDNS_API_PORT/api/v1/servers/localhost$path" "$@"
}
pdns_answers() { pdns_api GET ""; }

# The zones, made through the API as an administrator would. soa_edit_api makes every change count the
# serial up; without it a secondary server would never notice one.
#
# mail.example.test is the name that MX records of the tests point to. It leads to the node's address, where
# the chart's Service listens through externalIPs.
make_zones() {
    local zone
    for zone in $TEST_ZONES; do
        pdns_api GET "/zones/$zone." >/dev/null 2>&1 && continue
        pdns_api POST /zones -H 'Content-Type: application/json' -o /dev/null -d "{\"name\": \"$zone.\",
            \"kind\": \"Native\", \"soa_edit_api\": \"DEFAULT\", \"nameservers\": [\"ns1.example.test.\"]}"
    done
    pdns_api PATCH /zones/example.test. -H 'Content-Type: application/json' -o /dev/null -d "{\"rrsets\": [
        {\"name\": \"ns1.example.test.\", \"type\": \"A\", \"ttl\": 60, \"changetype\": \"REPLACE\",
         \"records\": [{\"content\": \"$NODE_IP\", \"disabled\": false}]},
        {\"name\": \"mail.example.test.\", \"type\": \"A\", \"ttl\": 60, \"changetype\": \"REPLACE\",
         \"records\": [{\"content\": \"$NODE_IP\", \"disabled\": false}]}]}"
}

# resolves NAME ADDRESS: asked at the address of the service, so this proves kube-proxy too.
resolves() {
    inside dig +short +tries=1 +time=1 "@$DNS_SERVICE_IP" "$1" | grep -Fx "$2"
}
