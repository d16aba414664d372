{{- define "scaler.shape" -}}
start_s: {{ .Values.start_s | default 60 | int }}
env:
  # Where an HPA scales a stage, the umbrella says here what to watch; it is read when a pod starts.
  - name: ANTIPHON_TRIGGERS
    valueFrom:
      configMapKeyRef: {name: {{ include "antiphon-lib.owner" . }}-scaler-triggers, key: triggers, optional: true}
{{- end }}
