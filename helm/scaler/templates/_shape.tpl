{{- define "scaler.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
start_s: {{ .Values.start_s | default 60 | int }}
{{- end }}
