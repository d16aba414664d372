{{- define "antiphon.redis-selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "antiphon.redis-metadata" -}}
{{ include "antiphon.redis-metadata-as" (list . (include "antiphon-lib.redis-name" .)) }}
{{- end }}

{{- /* List of context, the object's name. The labels come last: more may follow. */ -}}
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

{{- /* Three quarters of the container's memory: the rest is for connections' buffers and fragmentation. */ -}}
{{- define "antiphon.redis-maxmemory" -}}
{{- $memory := .Values.redis.resources.memory -}}
{{- $mib := hasSuffix "Gi" $memory | ternary 1024 1 | mul (regexFind "^[0-9]+" $memory | int) -}}
{{ div (mul $mib 3) 4 }}mb
{{- end }}
