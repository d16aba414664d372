{{- define "gateway.shape" -}}
{{- $key := .Values.apiKey -}}
{{- if and $key.allowAnonymous $key.secret.name (ne $key.secret.name "antiphon-api-key") -}}
{{- fail "gateway.apiKey.allowAnonymous: a key in apiKey.secret.name and no key contradict each other" -}}
{{- end -}}
{{- if and $key.allowAnonymous $key.tenantsSecret.name -}}
{{- fail "gateway.apiKey.allowAnonymous: tenants' keys in apiKey.tenantsSecret.name and no key contradict each other" -}}
{{- end -}}
{{- if not (or $key.allowAnonymous $key.secret.name $key.tenantsSecret.name) -}}
{{- fail "gateway.apiKey.secret.name: a Secret with the clients' key is needed, or apiKey.tenantsSecret.name, or apiKey.allowAnonymous=true" -}}
{{- end -}}
{{- if eq (int .Values.port) 9000 -}}
{{- fail "gateway.port: 9000 is the Service's gRPC port; take another" -}}
{{- end -}}
http: true
start_s: {{ .Values.start_s | default 60 | int }}
settings:
  http_host: 0.0.0.0
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
