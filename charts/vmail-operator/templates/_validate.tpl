{{/* Fails with one sentence for each mistake that the schema cannot name well. */}}
{{- define "vmail.validate" -}}
{{- $hostname := "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$" -}}
{{- $errors := list -}}

{{- if not .Values.hostname -}}
  {{- $errors = append $errors "hostname: set the name that Postfix announces and MX records point to, such as mail.example.org" -}}
{{- end -}}

{{- if not .Values.postmaster -}}
  {{- $errors = append $errors "postmaster: set the address that gets mail for postmaster@, abuse@ and root@, such as you@example.org" -}}
{{- else if not (regexMatch "^[^@ ,]+@[^@ ,]+[.][^@ ,]+$" .Values.postmaster) -}}
  {{- $errors = append $errors (printf "postmaster: `%s` is not an address such as you@example.org" .Values.postmaster) -}}
{{- end -}}

{{- if not .Values.dns.powerdns.url -}}
  {{- $errors = append $errors "dns.powerdns.url: set the base URL of the PowerDNS HTTP API, such as http://powerdns.dns.svc:8081" -}}
{{- else if not (regexMatch "^https?://[^/]" .Values.dns.powerdns.url) -}}
  {{- $errors = append $errors (printf "dns.powerdns.url: `%s` does not begin with http:// or https:// and a host" .Values.dns.powerdns.url) -}}
{{- end -}}

{{- if not .Values.dns.powerdns.secretName -}}
  {{- $errors = append $errors "dns.powerdns.secretName: name a Secret of this namespace that holds the API key; `kubectl create secret generic powerdns --from-literal=api-key=...` makes one" -}}
{{- end -}}

{{- if not (hasKey .Values.cells "default") -}}
  {{- $errors = append $errors "cells: there must be one named `default`" -}}
{{- end -}}
{{- $seen := dict -}}
{{- $taken := dict -}}
{{- $claims := dict -}}
{{- range $name, $cell := include "vmail.cells" . | fromJson -}}
  {{- $path := ternary "hostname" (printf "cells.%s.hostname" $name) (and (eq $name "default") (eq $cell.hostname $.Values.hostname)) -}}
  {{- if not $cell.hostname -}}
    {{- if ne $name "default" -}}
      {{- $errors = append $errors (printf "%s: set the cell's own host name, such as mail2.example.org" $path) -}}
    {{- end -}}
  {{- else if not (regexMatch $hostname $cell.hostname) -}}
    {{- $errors = append $errors (printf "%s: `%s` is not a lower-case host name such as mail.example.org" $path $cell.hostname) -}}
  {{- else if hasKey $seen $cell.hostname -}}
    {{- $errors = append $errors (printf "%s: `%s` is already the host name of the cell `%s`; each cell needs one of its own" $path $cell.hostname (get $seen $cell.hostname)) -}}
  {{- else -}}
    {{- $_ := set $seen $cell.hostname $name -}}
  {{- end -}}
  {{- /* Port 25 of one address leads to one pod. */ -}}
  {{- $service := $cell.service -}}
  {{- $addresses := list -}}
  {{- range $service.externalIPs -}}{{- $addresses = append $addresses (list "externalIPs" .) -}}{{- end -}}
  {{- if and $service.loadBalancerIP (eq $service.type "LoadBalancer") -}}{{- $addresses = append $addresses (list "loadBalancerIP" $service.loadBalancerIP) -}}{{- end -}}
  {{- if and $service.nodePort (ne $service.type "ClusterIP") -}}{{- $addresses = append $addresses (list "nodePort" (printf "%d" (int64 $service.nodePort))) -}}{{- end -}}
  {{- range $addresses -}}
    {{- $field := first . -}}
    {{- $address := last . -}}
    {{- if hasKey $taken $address -}}
      {{- $errors = append $errors (printf "cells.%s.service.%s: `%s` is already that of the cell `%s`; each cell needs one of its own" $name $field $address (get $taken $address)) -}}
    {{- else -}}
      {{- $_ := set $taken $address $name -}}
    {{- end -}}
  {{- end -}}
  {{- /* Two Postfixes on one queue, or two cells in one directory of Maildirs, would lose mail. */ -}}
  {{- range $volume, $given := $cell.storage -}}
    {{- if $given.existingClaim -}}
      {{- $path := printf "cells.%s.storage.%s" $name $volume -}}
      {{- if hasKey $claims $given.existingClaim -}}
        {{- $errors = append $errors (printf "%s.existingClaim: `%s` is already that of %s; each volume needs one of its own" $path $given.existingClaim (get $claims $given.existingClaim)) -}}
      {{- else -}}
        {{- $_ := set $claims $given.existingClaim $path -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- /* The pods of a StatefulSet carry its name and a hash as a label of at most 63 characters. */ -}}
  {{- if gt (len $cell.postfix) 52 -}}
    {{- $errors = append $errors (printf "cells.%s: the name `%s` would be longer than 52 characters; use a shorter release name, fullnameOverride or cell name" $name $cell.postfix) -}}
  {{- end -}}
{{- end -}}

{{- range $index, $rule := .Values.tenancy.rules -}}
  {{- range $rule.domains -}}
    {{- if and (ne . "*") (not (regexMatch $hostname (trimPrefix "*." .))) -}}
      {{- $errors = append $errors (printf "tenancy.rules[%d].domains: `%s` is neither a domain, nor `*.` and a domain, nor `*`" $index .) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- /* What a live cluster knows: nothing when rendered without one. */ -}}
{{- $serving := dict -}}
{{- range (lookup "v1" "ConfigMap" .Release.Namespace "").items -}}
  {{- $labels := default dict .metadata.labels -}}
  {{- if and (eq (get $labels "app.kubernetes.io/managed-by") "vmail-operator")
             (eq (get $labels "vmail.dev/installation") (include "vmail.fullname" $))
             (hasKey (default dict .data) "record.yaml") -}}
    {{- $record := index .data "record.yaml" | fromYaml -}}
    {{- $cell := dig "spec" "cell" "default" $record -}}
    {{- if and (ne (dig "phase" "name" "" $record) "withdrawn") (not (hasKey $.Values.cells $cell)) -}}
      {{- $_ := set $serving $cell (append (get $serving $cell | default list) $record.domain) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $cell, $domains := $serving -}}
  {{- $errors = append $errors (printf "cells.%s: still serves %s; delete these MailDomains and wait until they are withdrawn, then take the cell away" $cell (join ", " $domains)) -}}
{{- end -}}

{{- if $errors -}}
  {{- fail (printf "these values need you:\n  - %s" (join "\n  - " $errors)) -}}
{{- end -}}
{{- end -}}
