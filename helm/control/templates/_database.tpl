{{- /* Where the control plane keeps its data. */ -}}

{{- /* Return "true" if no PostgreSQL is named. */ -}}
{{- define "control.on-sqlite" -}}
{{- if not (or .Values.database.host .Values.database.urlSecret.name) }}true{{ end -}}
{{- end }}

{{- define "control.sqlite-claim" -}}
{{ .Values.sqlite.existingClaim | default (include "antiphon-lib.checked-name" (list . (printf "%s-database" (include "antiphon-lib.fullname" .)))) }}
{{- end }}

{{- /* Return the URL of the database; "" = it is in a Secret. */ -}}
{{- define "control.database-url" -}}
{{- $database := .Values.database -}}
{{- if include "control.on-sqlite" . -}}
sqlite:////database/control.db
{{- else if $database.host -}}
{{ printf "postgresql://%s@%s:%d/%s?sslmode=%s" $database.user $database.host (int $database.port) $database.name ($database.tls.mode | default "verify-full") }}
{{- end -}}
{{- end }}

{{- /* Environment entries. The password has its own variable, so that it can hold any characters. */ -}}
{{- define "control.database-env" -}}
{{- $database := .Values.database -}}
{{- with $database.urlSecret }}{{ if .name }}
- name: ANTIPHON_DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}{{ end }}
{{- with $database.passwordSecret }}{{ if .name }}
- name: ANTIPHON_DATABASE_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}{{ end }}
{{- with include "control.root-certificates" . }}
- {name: PGSSLROOTCERT, value: {{ . }}}
{{- end }}
{{- end }}

{{- /* Return the file with the trusted authorities; "" = PostgreSQL's certificate is not checked, or by the URL. The driver
reads the variable and knows no parameter of a URL for it. With it, mode `require` checks the certificate too. */ -}}
{{- define "control.root-certificates" -}}
{{- $tls := .Values.database.tls -}}
{{- if $tls.caSecret.name -}}
/database-tls/{{ $tls.caSecret.key }}
{{- else if and .Values.database.host (has $tls.mode (list "" "verify-ca" "verify-full")) -}}
/etc/ssl/certs/ca-certificates.crt
{{- end -}}
{{- end }}

{{- define "control.ca-volume" -}}
{{- with .Values.database.tls.caSecret.name -}}
- {name: database-tls, secret: {secretName: {{ . }}}}
{{- end -}}
{{- end }}

{{- define "control.ca-mount" -}}
{{- if .Values.database.tls.caSecret.name -}}
- {name: database-tls, mountPath: /database-tls, readOnly: true}
{{- end -}}
{{- end }}

{{- define "control.database-volumes" -}}
{{ include "control.ca-volume" . }}
{{- if include "control.on-sqlite" . }}
- name: database
  persistentVolumeClaim: {claimName: {{ include "control.sqlite-claim" . }}}
{{- end }}
{{- end }}

{{- define "control.database-mounts" -}}
{{ include "control.ca-mount" . }}
{{- if include "control.on-sqlite" . }}
- {name: database, mountPath: /database}
{{- end }}
{{- end }}
