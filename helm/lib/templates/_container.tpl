{{- /* The main container of a service and its environment. */ -}}

{{- /* ANTIPHON_* settings: those of every service, those of the shape, those of the user. The user cannot set what the
chart sets. */ -}}
{{- define "antiphon-lib.settings" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
{{- $six := eq $root.Values.global.network.ipFamily "IPv6" -}}
{{- $base := dict "grpc_host" ($six | ternary "[::]" "0.0.0.0") "grpc_port" 9000 "metrics_host" (include "antiphon-lib.any-address" $root) "metrics_port" 9090 -}}
{{- $_ := set $base "drain_s" $root.Values.drain_s -}}
{{- $_ := set $base "log_level" $root.Values.global.logLevel -}}
{{- $_ := set $base "log_format" $root.Values.global.logFormat -}}
{{- with $root.Values.global.monitoring.otlpEndpoint }}{{ $_ := set $base "otlp_endpoint" . }}{{ end -}}
{{- if $shape.model -}}
{{- $_ := set $base "model" (printf "/models/%s" (include "antiphon-lib.model-folder" $root)) -}}
{{- $_ := set $base "served_name" (include "antiphon-lib.served-name" $root) -}}
{{- $_ := set $base "model_kind" $root.Values.global.sizing.model -}}
{{- $_ := set $base "max_model_len" (include "antiphon-lib.max-model-len" $root | int) -}}
{{- end -}}
{{- $own := merge (dict) ($shape.settings | default dict) $base -}}
{{- range $name, $_ := $root.Values.settings -}}
{{- if or (hasKey $own $name) (has $name (list "redis_url" "redis_username" "redis_password" "advertise_host" "api_key" "tenant_keys" "nodes" "node_rank" "master_address" "pod_deletion_cost" "pod_name" "pod_namespace" "control_address" "control_token" "control_cache_file" "client_secret_signing_key" "realtime_session_key" "webrtc" "webrtc_host" "webrtc_port" "webrtc_public_port" "webrtc_addresses" "webrtc_node_addresses" "webrtc_stun_server" "webrtc_turn_server" "webrtc_turn_username" "webrtc_turn_password" "object_store_url" "object_store_endpoint" "object_store_key" "object_store_secret" "batches_address" "events_token" "database_url" "database_password" "bootstrap_admin_key" "gateway_token")) -}}
{{- fail (printf "%s.settings.%s: another value of the chart sets it. Remove it here" $root.Chart.Name $name) -}}
{{- end -}}
{{- end -}}
{{- merge $own $root.Values.settings | toYaml -}}
{{- end }}

{{- /* The address that a server listens on. */ -}}
{{- define "antiphon-lib.any-address" -}}
{{ eq .Values.global.network.ipFamily "IPv6" | ternary "::" "0.0.0.0" }}
{{- end }}

{{- define "antiphon-lib.env" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
{{- range $root.Values.env -}}
{{- if hasPrefix "ANTIPHON_" .name -}}
{{- fail (printf "%s.env: %s is a setting. Put it into %s.settings" $root.Chart.Name .name $root.Chart.Name) -}}
{{- end -}}
{{- end -}}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
{{- if ($shape.webrtc | default dict).hostPort }}
# Of a node with IPv4 and IPv6 both.
- name: NODE_IPS
  valueFrom:
    fieldRef: {fieldPath: status.hostIPs}
{{- end }}
- {name: ANTIPHON_ADVERTISE_HOST, value: {{ eq $root.Values.global.network.ipFamily "IPv6" | ternary "[$(POD_IP)]" "$(POD_IP)" | quote }}}
{{- with include "antiphon-lib.service-redis-env" $root }}
{{ . }}
{{- end }}
{{- range $name, $value := include "antiphon-lib.settings" . | fromYaml }}
- {name: ANTIPHON_{{ upper $name }}, value: {{ kindIs "float64" $value | ternary (toJson $value) $value | quote }}}
{{- end }}
{{- with $shape.env }}
{{ toYaml . }}
{{- end }}
{{- if and $shape.stage (not (include "antiphon-lib.in-groups" .)) }}
# The scaler may write the deletion cost of a ReplicaSet's pod. No other workload reads it.
- name: ANTIPHON_POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: ANTIPHON_POD_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
{{- end }}
- {name: HOME, value: /cache}
# torch looks up the user's name, and a user id that the cluster chose has none.
- {name: USER, value: antiphon}
- {name: PYTHONUNBUFFERED, value: "1"}
{{- if $shape.model }}
- {name: HF_HUB_OFFLINE, value: "1"}
- {name: DO_NOT_TRACK, value: "1"}
{{- end }}
{{- with $root.Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* For memory and GPUs the limit is the request. The CPU has no limit, so that a decoder can use idle cores. */ -}}
{{- define "antiphon-lib.resources" -}}
{{- $root := index . 0 -}}{{- $gpu := (index . 1).gpu | default dict -}}
requests:
  cpu: {{ $root.Values.resources.cpu | quote }}
  memory: {{ $root.Values.resources.memory }}
  {{- with $gpu.resource }}
  {{ . }}: {{ $gpu.count | quote }}
  {{- end }}
limits:
  memory: {{ $root.Values.resources.memory }}
  {{- with $gpu.resource }}
  {{ . }}: {{ $gpu.count | quote }}
  {{- end }}
{{- end }}

{{- /* Health turns NOT_SERVING when a drain begins. The pod is not ready then, and Kubernetes does not probe its
liveness. */ -}}
{{- define "antiphon-lib.probes" -}}
{{- $shape := index . 1 -}}
startupProbe:
  grpc: {port: 9000}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ max 3 (div (add (int $shape.start_s) 9) 10) }}
readinessProbe:
  grpc: {port: 9000}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  {{- if $shape.http }}
  httpGet: {path: /health/live, port: http}
  {{- else }}
  grpc: {port: 9000}
  {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "antiphon-lib.container" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
name: {{ $root.Chart.Name }}
image: {{ include "antiphon-lib.image" $root | quote }}
imagePullPolicy: {{ $root.Values.global.image.pullPolicy }}
command: [python, -m, services.{{ $root.Chart.Name }}]
terminationMessagePolicy: FallbackToLogsOnError # `kubectl describe pod` says why a worker ended itself
ports:
  - {name: grpc, containerPort: 9000}
  - {name: metrics, containerPort: 9090}
  {{- if $shape.http }}
  - {name: http, containerPort: {{ $shape.http }}}
  {{- end }}
  {{- with $shape.webrtc }}
  - {name: webrtc, containerPort: {{ .port }}, protocol: UDP{{ with .hostPort }}, hostPort: {{ . }}{{ end }}}
  {{- end }}
{{- $env := include "antiphon-lib.env" . }}
{{- include "antiphon-lib.check-unique" (list (printf "%s.env" $root.Chart.Name) ($env | fromYamlArray)) }}
env:
  {{- $env | nindent 2 }}
resources:
  {{- include "antiphon-lib.resources" . | nindent 2 }}
{{- with include "antiphon-lib.container-security" (list $root $root.Values) }}
{{ . }}
{{- end }}
{{ include "antiphon-lib.probes" . }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /cache}
  {{- if $shape.model }}
  - {name: weights, mountPath: /models, readOnly: true}
  {{- end }}
  {{- if $shape.shm }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- if include "antiphon-lib.mounted-redis-ca" $root }}
  - {name: redis-tls, mountPath: /redis-tls, readOnly: true}
  {{- end }}
  {{- if $shape.tenants }}
  - {name: tenants, mountPath: /tenants, readOnly: true}
  {{- end }}
  {{- if $shape.apiAccess }}
  # Not automounted: the other containers of the pod get no token.
  - {name: api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  {{- end }}
  {{- with $shape.mounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
