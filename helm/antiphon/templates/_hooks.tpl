{{- /* Made before all else, and gone when it has succeeded. Given the weight: the order among hooks. */ -}}
{{- define "antiphon.before-install" -}}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
