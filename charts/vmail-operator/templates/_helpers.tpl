{{/* Prefix of all names: the release's name. */}}
{{- define "vmail.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride -}}
{{- end -}}

{{/* Labels by which pods are selected; takes (dict "root" $ "component" "…"). */}}
{{- define "vmail.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of every object; takes the same. */}}
{{- define "vmail.labels" -}}
{{ include "vmail.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "image" .Values.image.…). */}}
{{- define "vmail.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest | quote -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) | quote -}}
{{- end -}}
{{- end -}}

{{- define "vmail.agentTokenSecret" -}}
{{- default (printf "%s-agent-token" (include "vmail.fullname" .)) .Values.agent.tokenSecretName -}}
{{- end -}}

{{/* The cells by name, each with everything it inherits, as JSON. */}}
{{- define "vmail.cells" -}}
{{- $fullname := include "vmail.fullname" . -}}
{{- $cells := dict -}}
{{- range $name, $given := .Values.cells -}}
  {{- $given = default dict $given -}}
  {{- $cell := dict
        "hostname" (default (ternary $.Values.hostname "" (eq $name "default")) $given.hostname)
        "postfix" (printf "%s-postfix-%s" $fullname $name)
        "smtp" (printf "%s-smtp-%s" $fullname $name)
        "configMaps" (printf "%s-%s" $fullname $name)
        "service" (mergeOverwrite (deepCopy $.Values.service) (default dict $given.service))
        "storage" (mergeOverwrite (deepCopy $.Values.storage) (default dict $given.storage))
        "tls" (mergeOverwrite (deepCopy $.Values.tls) (default dict $given.tls))
  -}}
  {{- range list "resources" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" -}}
    {{- $_ := set $cell . (ternary (get $given .) (get $.Values.postfix .) (hasKey $given .)) -}}
  {{- end -}}
  {{- $_ := set $cells $name $cell -}}
{{- end -}}
{{- toJson $cells -}}
{{- end -}}

{{/* The operator's configuration file. */}}
{{- define "vmail.config" -}}
{{- $cells := dict -}}
{{- range $name, $cell := include "vmail.cells" . | fromJson -}}
  {{- $given := dict "hostname" $cell.hostname "pod" (printf "%s-0" $cell.postfix) -}}
  {{- if $cell.service.proxyProtocol -}}{{- $_ := set $given "proxyProtocol" true -}}{{- end -}}
  {{- $_ := set $cells $name $given -}}
{{- end -}}
{{- $powerdns := dict
      "url" .Values.dns.powerdns.url
      "serverId" .Values.dns.powerdns.serverId
      "apiKeyFile" "/etc/vmail-operator/powerdns/api-key"
-}}
{{- $dns := dict
      "powerdns" $powerdns
      "drainMarginSeconds" (int64 .Values.dns.drainMarginSeconds)
      "checkIntervalSeconds" (int64 .Values.dns.checkIntervalSeconds)
      "queueDeadlineSeconds" (int64 .Values.dns.queueDeadlineSeconds)
-}}
{{- with .Values.dns.ownerId -}}{{- $_ := set $dns "ownerId" . -}}{{- end -}}
{{- with .Values.dns.resolver -}}{{- $_ := set $dns "resolver" . -}}{{- end -}}
{{- $parameters := dict -}}
{{- range $name, $value := .Values.postfix.parameters -}}
  {{- $_ := set $parameters $name (include "vmail.postfixValue" $value) -}}
{{- end -}}
{{- $quotas := list -}}
{{- range $given := .Values.tenancy.quotas -}}
  {{- $quota := dict "namespaces" $given.namespaces -}}
  {{- range $kind, $limit := omit $given "namespaces" -}}
    {{- $_ := set $quota $kind (int64 $limit) -}}
  {{- end -}}
  {{- $quotas = append $quotas $quota -}}
{{- end -}}
{{- dict
      "name" (include "vmail.fullname" .)
      "postmaster" .Values.postmaster
      "cells" $cells
      "tenancy" (dict "rules" .Values.tenancy.rules "quotas" $quotas)
      "dns" $dns
      "postfix" (dict "messageSizeLimit" (int64 .Values.postfix.messageSizeLimit) "parameters" $parameters)
      "vanishedSeconds" (int64 .Values.vanishedSeconds)
      "brake" (dict "share" (int64 .Values.brake.share) "minimum" (int64 .Values.brake.minimum))
    | toYaml -}}
{{- end -}}

{{/* A value of main.cf as text. YAML reads a bare yes as a truth value and 1000000 as 1e+06. */}}
{{- define "vmail.postfixValue" -}}
{{- if kindIs "bool" . -}}
{{- ternary "yes" "no" . -}}
{{- else if kindIs "float64" . -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}
