{{- define "preprocess.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- include "preprocess.check-memory" . -}}
stage: preprocess
model: true
headless: true
start_s: {{ include "antiphon-lib.start-s" (list . 1 120) }}
slots: {{ int .Values.slots }}
settings:
  slots: {{ int .Values.slots }}
  decoders: {{ int .Values.decoders }}
  {{- if not .Values.fetch.enabled }}
  fetch_ports: "[]"
  {{- end }}
{{- end }}
