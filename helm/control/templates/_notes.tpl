{{- define "control.notes" -}}
{{- if include "control.on-sqlite" . -}}
The control plane keeps its data in SQLite on the claim {{ include "control.sqlite-claim" . }}. It has one pod, and the Admin API is away while that is
replaced. Set control.database.host or urlSecret to a PostgreSQL for more pods. The data does not move by itself.
{{- else -}}
The control plane keeps its data in PostgreSQL. A job has migrated its schema.
{{- end }}
Its first admin key is in the Secret {{ include "control.admin-key-secret" . }}:
  export ADMIN_KEY="$(kubectl --namespace {{ .Release.Namespace }} get secret {{ include "control.admin-key-secret" . }} -o jsonpath='{.data.{{ .Values.adminKey.secret.key | replace "." "\\." }}}' | base64 --decode)"
  kubectl --namespace {{ .Release.Namespace }} port-forward service/{{ include "antiphon-lib.fullname" . }} 8902:{{ .Values.port }}
  antiphon admin orgs create acme
{{- end }}
