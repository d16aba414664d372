{{- define "control.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- include "control.checks" . -}}
{{- $sqlite := include "control.on-sqlite" . -}}
http: 8902
tmpSize: 64Mi
{{- /* On SQLite, the start includes the migration. */}}
start_s: {{ .Values.start_s | default (empty $sqlite | ternary 60 300) | int }}
{{- if $sqlite }}
# One process at a time has the file.
recreate: true
{{- end }}
settings:
  http_host: {{ include "antiphon-lib.any-address" . | quote }}
  http_port: 8902
  migrate_on_start: {{ empty $sqlite | ternary "false" "true" | quote }}
  {{- with include "control.database-url" . }}
  database_url: {{ . | quote }}
  {{- end }}
env:
  {{- include "control.database-env" . | nindent 2 }}
  {{- include "control.gateway-token-env" . | nindent 2 }}
  - name: ANTIPHON_BOOTSTRAP_ADMIN_KEY
    valueFrom:
      secretKeyRef: {name: {{ include "control.admin-key-secret" . }}, key: {{ .Values.adminKey.secret.key }}}
  {{- with .Values.eventsToken.secret }}
  {{- if .name }}
  - name: ANTIPHON_EVENTS_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
  {{- end }}
  {{- end }}
{{- with include "control.database-volumes" . | trim }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
{{- with include "control.database-mounts" . | trim }}
mounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "control.checks" -}}
{{- $database := .Values.database -}}
{{- $url := $database.urlSecret.name -}}
{{- if and $url $database.host -}}
{{- fail "control.database.urlSecret: the URL holds the address. Set database.urlSecret or database.host, not both" -}}
{{- end -}}
{{- if and $url $database.tls.mode -}}
{{- fail "control.database.tls.mode: the URL in database.urlSecret has the mode, as ?sslmode=. Remove it here" -}}
{{- end -}}
{{- if and (eq $database.tls.mode "disable") $database.tls.caSecret.name -}}
{{- fail "control.database.tls.caSecret: tls.mode disable contradicts it. Remove one" -}}
{{- end -}}
{{- if include "control.on-sqlite" . -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail (printf "control.replicas: %d pods cannot share SQLite. Use 1, or set control.database.host or urlSecret to a PostgreSQL" (int .Values.replicas)) -}}
{{- end -}}
{{- range $name, $given := dict "passwordSecret.name" $database.passwordSecret.name "tls.mode" $database.tls.mode "tls.caSecret.name" $database.tls.caSecret.name -}}
{{- if $given -}}
{{- fail (printf "control.database.%s: it is PostgreSQL's, and no PostgreSQL is set. Set database.host or urlSecret too" $name) -}}
{{- end -}}
{{- end -}}
{{- else if .Values.sqlite.existingClaim -}}
{{- fail "control.sqlite.existingClaim: control.database names a PostgreSQL, so there is no SQLite. Remove one" -}}
{{- end -}}
{{- if and .Values.eventsToken.secret.name (not .Values.settings.events_url) -}}
{{- fail "control.eventsToken.secret.name: no CloudEvents are sent. Set control.settings.events_url too" -}}
{{- end -}}
{{- if eq (int .Values.port) 9000 -}}
{{- fail "control.port: 9000 is the Service's gRPC port. Use another" -}}
{{- end -}}
{{- end }}
