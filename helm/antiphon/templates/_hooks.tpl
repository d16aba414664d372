{{- /* Annotations of a hook that runs before an install or upgrade and is deleted when it has succeeded. Takes the
weight, which orders hooks. */ -}}
{{- define "antiphon.before-install" -}}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
