{{- define "scaler.shape" -}}
start_s: {{ .Values.start_s | default 60 | int }}
{{- end }}
