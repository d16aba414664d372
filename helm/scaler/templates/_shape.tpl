{{- define "scaler.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- if and .Values.podDeletionCost.enabled (eq (include "antiphon-lib.service-account-name" .) "default") -}}
{{- fail "scaler.podDeletionCost.enabled: the service account default would get the right to patch pods. Set scaler.serviceAccount.create or name" -}}
{{- end -}}
start_s: {{ .Values.start_s | default 60 | int }}
{{- if .Values.podDeletionCost.enabled }}
apiAccess: true
settings:
  pod_deletion_cost: "true"
env:
  - name: ANTIPHON_POD_NAMESPACE
    valueFrom:
      fieldRef: {fieldPath: metadata.namespace}
{{- end }}
{{- end }}
