{{- /* The Secrets with the first admin key and the gateways' token. */ -}}

{{- define "control.auth-secret" -}}
{{ include "antiphon-lib.checked-name" (list . (printf "%s-auth" (include "antiphon-lib.fullname" .))) }}
{{- end }}

{{- define "control.admin-key-secret" -}}
{{ .Values.adminKey.secret.name | default (include "control.auth-secret" .) }}
{{- end }}

{{- define "control.gateway-token-secret" -}}
{{ .Values.gatewayToken.secret.name | default (include "control.auth-secret" .) }}
{{- end }}

{{- define "control.gateway-token-env" -}}
- name: ANTIPHON_GATEWAY_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "control.gateway-token-secret" . }}, key: {{ .Values.gatewayToken.secret.key }}}
{{- end }}
