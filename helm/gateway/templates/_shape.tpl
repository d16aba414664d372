{{- define "gateway.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- $key := .Values.apiKey -}}
{{- if and $key.allowAnonymous $key.secret.name (ne $key.secret.name "antiphon-api-key") -}}
{{- fail "gateway.apiKey.allowAnonymous: true contradicts the key in apiKey.secret.name. Remove one" -}}
{{- end -}}
{{- if and $key.allowAnonymous $key.tenantsSecret.name -}}
{{- fail "gateway.apiKey.allowAnonymous: true contradicts the tenants' keys in apiKey.tenantsSecret.name. Remove one" -}}
{{- end -}}
{{- if not (or $key.allowAnonymous $key.secret.name $key.tenantsSecret.name) -}}
{{- fail "gateway.apiKey.secret.name: name a Secret with the clients' key, or set apiKey.tenantsSecret.name or apiKey.allowAnonymous=true" -}}
{{- end -}}
{{- if eq (int .Values.port) 9000 -}}
{{- fail "gateway.port: 9000 is the Service's gRPC port. Use another" -}}
{{- end -}}
{{- $timeout := .Values.settings.request_timeout_s -}}
{{- if and $timeout (gt (float64 $timeout) (float64 .Values.drain_s)) -}}
{{- fail (printf "gateway.settings.request_timeout_s: %v is more than gateway.drain_s, %v: a rollout would cut answers. Raise drain_s of gateway, thinker and talker" $timeout .Values.drain_s) -}}
{{- end -}}
{{- if gt (float64 .Values.global.cold_start_s) (float64 ($timeout | default 600)) -}}
{{- fail (printf "global.cold_start_s: %v is more than a request may last, %v s. Raise gateway.settings.request_timeout_s or wait less" .Values.global.cold_start_s ($timeout | default 600)) -}}
{{- end -}}
http: true
start_s: {{ .Values.start_s | default 60 | int }}
settings:
  http_host: {{ include "antiphon-lib.any-address" . | quote }}
  http_port: 8901
  {{- if $key.allowAnonymous }}
  allow_anonymous: "true"
  {{- end }}
  {{- with int .Values.global.cold_start_s }}
  cold_start_s: {{ . }}
  {{- end }}
{{- if not $key.allowAnonymous }}
env:
  {{- range $name, $from := dict "ANTIPHON_API_KEY" $key.secret "ANTIPHON_TENANT_KEYS" $key.tenantsSecret }}
  {{- if $from.name }}
  - name: {{ $name }}
    valueFrom:
      secretKeyRef: {name: {{ $from.name }}, key: {{ $from.key }}}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* List of context, name of a backend's port, extra backends, this gateway's port → entries of backendRefs. */ -}}
{{- define "gateway.backends" -}}
{{- $root := index . 0 -}}{{- $port := index . 1 -}}{{- $extra := index . 2 -}}
- name: {{ include "antiphon-lib.fullname" $root }}
  port: {{ index . 3 }}
  {{- if $extra }}
  weight: {{ int $root.Values.httpRoute.weight }}
  {{- end }}
{{- range $extra }}
- name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  port: {{ get . $port | default (eq $port "port" | ternary 80 9000) | int }}
  weight: {{ int .weight }}
{{- end }}
{{- end }}
