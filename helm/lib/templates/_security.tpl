{{- /* Security contexts. The first two templates take the list of context and values of a service. */ -}}

{{- define "antiphon-lib.pod-security" -}}
{{- $own := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001 -}}
{{- $_ := set $own "fsGroupChangePolicy" "OnRootMismatch" -}}
{{- $_ := set $own "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- include "antiphon-lib.security-context" (list $own (index . 0).Values.global.podSecurityContext (index . 1).podSecurityContext) -}}
{{- end }}

{{- define "antiphon-lib.container-security" -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true -}}
{{- $_ := merge $own (dict "runAsUser" 10001 "runAsGroup" 10001 "capabilities" (dict "drop" (list "ALL"))) -}}
{{- $_ := set $own "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- include "antiphon-lib.security-context" (list $own (index . 0).Values.global.containerSecurityContext (index . 1).containerSecurityContext) -}}
{{- end }}

{{- /* Merge security contexts field by field; null removes a field. Takes the list of contexts, the charts' own first.
Render nothing if no field is left. */ -}}
{{- define "antiphon-lib.security-context" -}}
{{- $found := first . -}}
{{- range rest . -}}
{{- range $field, $value := . -}}
{{- if kindIs "invalid" $value }}{{ $_ := unset $found $field }}{{ else }}{{ $_ := set $found $field $value }}{{ end -}}
{{- end -}}
{{- end -}}
{{- with $found -}}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.pull-secrets" -}}
{{- with .Values.global.image.pullSecrets -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}
