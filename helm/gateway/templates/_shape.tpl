{{- define "gateway.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- $key := .Values.apiKey -}}
{{- if and $key.allowAnonymous $key.secret.name (ne $key.secret.name "antiphon-api-key") -}}
{{- fail "gateway.apiKey.allowAnonymous: true contradicts the key in apiKey.secret.name. Remove one" -}}
{{- end -}}
{{- if and $key.allowAnonymous $key.tenantsSecret.name -}}
{{- fail "gateway.apiKey.allowAnonymous: true contradicts the tenants' keys in apiKey.tenantsSecret.name. Remove one" -}}
{{- end -}}
{{- include "gateway.check-control" . -}}
{{- include "gateway.check-store" . -}}
{{- $control := .Values.control -}}{{- $store := .Values.objectStore -}}
{{- if not (or $key.allowAnonymous $key.secret.name $key.tenantsSecret.name .Values.settings.tenants_file $control.address) -}}
{{- fail "gateway.apiKey.secret.name: name a Secret with the clients' key, or set apiKey.tenantsSecret.name, control.enabled=true or apiKey.allowAnonymous=true" -}}
{{- end -}}
{{- if eq (int .Values.port) 9000 -}}
{{- fail "gateway.port: 9000 is the Service's gRPC port. Use another" -}}
{{- end -}}
{{- include "gateway.check-webrtc" . -}}
{{- $timeout := .Values.settings.request_timeout_s -}}
{{- if and $timeout (gt (float64 $timeout) (float64 .Values.drain_s)) -}}
{{- fail (printf "gateway.settings.request_timeout_s: %v is more than gateway.drain_s, %v: a rollout would cut answers. Raise gateway.drain_s" $timeout .Values.drain_s) -}}
{{- end -}}
{{- if gt (float64 .Values.global.cold_start_s) (float64 ($timeout | default 600)) -}}
{{- fail (printf "global.cold_start_s: %v is more than a request may last, %v s. Raise gateway.settings.request_timeout_s or wait less" .Values.global.cold_start_s ($timeout | default 600)) -}}
{{- end -}}
{{- $spools := and (or $control.address (eq (toString .Values.settings.usage_records) "on")) (not .Values.settings.usage_spool_dir) -}}
{{- if $spools }}{{ include "gateway.check-spool" . }}{{ end -}}
http: 8901
{{- with .Values.settings.spill_bytes }}
{{- /* Beside it there is little: 1 GiB. */}}
tmpSize: {{ add (int64 .) 1073741824 | quote }}
{{- end }}
start_s: {{ .Values.start_s | default 60 | int }}
{{- with .Values.webrtc }}{{ if .enabled }}
webrtc: {port: 8903, hostPort: {{ int .hostPort }}}
{{- end }}{{ end }}
settings:
  http_host: {{ include "antiphon-lib.any-address" . | quote }}
  http_port: 8901
  shutdown_delay_s: {{ int .Values.shutdownDelay_s }}
  {{- if $key.allowAnonymous }}
  allow_anonymous: "true"
  {{- end }}
  {{- with int .Values.global.cold_start_s }}
  cold_start_s: {{ . }}
  {{- end }}
  {{- if $key.tenantsSecret.name }}
  tenants_file: /tenants/tenants.json
  {{- end }}
  {{- with $control.address }}
  control_address: {{ . | quote }}
  control_cache_file: {{ $control.cacheClaim | empty | ternary "/cache" "/tenant-cache" }}/tenants.pb
  {{- end }}
  {{- if $spools }}
  usage_spool_dir: /cache/usage-spool
  {{- end }}
  {{- if or $store.url $store.claim }}
  object_store_url: {{ $store.url | default "file:///objects" | quote }}
  {{- end }}
  {{- with $store.endpoint }}
  object_store_endpoint: {{ . | quote }}
  {{- end }}
  {{- with .Values.webrtc }}{{ if .enabled }}
  webrtc: "true"
  webrtc_host: {{ include "antiphon-lib.any-address" $ | quote }}
  webrtc_port: 8903
  webrtc_public_port: {{ int .hostPort }}
  {{- if .addresses }}
  webrtc_addresses: {{ .addresses | toJson | quote }}
  {{- else if .hostPort }}
  webrtc_node_addresses: $(NODE_IPS)
  {{- end }}
  {{- with .stunServer }}
  webrtc_stun_server: {{ . | quote }}
  {{- end }}
  {{- with .turn.server }}
  webrtc_turn_server: {{ . | quote }}
  {{- end }}
  {{- end }}{{ end }}
env:
  {{- if and $key.secret.name (not $key.allowAnonymous) }}
  - name: ANTIPHON_API_KEY
    valueFrom:
      secretKeyRef: {name: {{ $key.secret.name }}, key: {{ $key.secret.key }}}
  {{- end }}
  {{- if $control.address }}
  - name: ANTIPHON_CONTROL_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ $control.tokenSecret.name }}, key: {{ $control.tokenSecret.key }}}
  {{- end }}
  {{- with .Values.realtimeSessionKey.secret }}
  {{- if .name }}
  - name: ANTIPHON_REALTIME_SESSION_KEY
    valueFrom:
      secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
  {{- end }}
  {{- end }}
  {{- with $store.secret }}
  {{- if .name }}
  - name: ANTIPHON_OBJECT_STORE_KEY
    valueFrom:
      secretKeyRef: {name: {{ .name }}, key: {{ .accessKey }}}
  - name: ANTIPHON_OBJECT_STORE_SECRET
    valueFrom:
      secretKeyRef: {name: {{ .name }}, key: {{ .secretKey }}}
  {{- end }}
  {{- end }}
  {{- with .Values.clientSecretSigningKey.secret }}
  {{- if .name }}
  - name: ANTIPHON_CLIENT_SECRET_SIGNING_KEY
    valueFrom:
      secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
  {{- end }}
  {{- end }}
  {{- with .Values.webrtc.turn }}
  {{- if .server }}
  - name: ANTIPHON_WEBRTC_TURN_USERNAME
    valueFrom:
      secretKeyRef: {name: {{ .secret.name }}, key: {{ .secret.username }}}
  - name: ANTIPHON_WEBRTC_TURN_PASSWORD
    valueFrom:
      secretKeyRef: {name: {{ .secret.name }}, key: {{ .secret.password }}}
  {{- end }}
  {{- end }}
{{- $caches := and $control.address $control.cacheClaim }}
{{- if or $caches $store.claim }}
volumes:
  {{- if $caches }}
  - name: tenant-cache
    persistentVolumeClaim: {claimName: {{ $control.cacheClaim }}}
  {{- end }}
  {{- with $store.claim }}
  - name: objects
    persistentVolumeClaim: {claimName: {{ . }}}
  {{- end }}
mounts:
  {{- if $caches }}
  - {name: tenant-cache, mountPath: /tenant-cache}
  {{- end }}
  {{- if $store.claim }}
  - {name: objects, mountPath: /objects}
  {{- end }}
{{- end }}
{{- with $key.tenantsSecret }}
{{- if .name }}
tenants: {name: {{ .name }}, key: {{ .key }}}
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
