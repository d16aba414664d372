{{- define "antiphon.redis-selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "antiphon.redis-metadata" -}}
{{ include "antiphon.redis-metadata-as" (list . (include "antiphon-lib.redis-name" .)) }}
{{- end }}

{{- /* Takes the list of context and name. The labels come last, so that callers can add more. */ -}}
{{- define "antiphon.redis-metadata-as" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "antiphon.redis-selector" $root | nindent 2 }}
  {{- include "antiphon-lib.peer-labels" (list $root "redis") | nindent 2 }}
{{- end }}

{{- define "antiphon.redis-password" -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "antiphon-lib.redis-secret" . }}, key: {{ .Values.global.redis.passwordSecret.key }}}
{{- end }}

{{- /* Three quarters of the container's memory. The rest is for buffers of connections and for fragmentation. */ -}}
{{- define "antiphon.redis-maxmemory" -}}
{{- $memory := .Values.redis.resources.memory -}}
{{- $mib := hasSuffix "Gi" $memory | ternary 1024 1 | mul (regexFind "^[0-9]+" $memory | int) -}}
{{ div (mul $mib 3) 4 }}mb
{{- end }}
