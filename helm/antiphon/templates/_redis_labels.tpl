{{- define "antiphon.redis-selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "antiphon.redis-metadata" -}}
name: {{ include "antiphon-lib.redis-name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "antiphon.redis-selector" . | nindent 2 }}
  {{- include "antiphon-lib.peer-labels" (list . "redis") | nindent 2 }}
{{- end }}
