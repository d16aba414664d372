{{- /* Names and labels. Most templates here take a list: the chart's context, and the shape of its service. */ -}}

{{- define "antiphon-lib.stack" -}}
{{ .Values.global.stack | default .Release.Name }}
{{- end }}

{{- define "antiphon-lib.component" -}}
{{ .Chart.Name }}
{{- end }}

{{- /* The release that installs the stack's Redis and scaler, which are found by their names. The umbrella installs its
own; a service's chart that is installed alone finds those that bear the stack's name. */ -}}
{{- define "antiphon-lib.owner" -}}
{{ .Values.global.umbrella | default false | ternary .Release.Name (include "antiphon-lib.stack" .) }}
{{- end }}

{{- define "antiphon-lib.fullname" -}}
{{- $owner := eq .Chart.Name "scaler" | ternary (include "antiphon-lib.owner" .) .Release.Name -}}
{{ .Values.fullnameOverride | default (printf "%s-%s" $owner .Chart.Name) }}
{{- end }}

{{- define "antiphon-lib.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The labels by which NetworkPolicies select a pod: its part in the stack, whichever release installed it. */ -}}
{{- define "antiphon-lib.peer-labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/part-of: antiphon
app.kubernetes.io/component: {{ index . 1 }}
antiphon/stack: {{ include "antiphon-lib.stack" $root }}
{{- end }}

{{- define "antiphon-lib.labels" -}}
{{ include "antiphon-lib.labels-of" (list . .Chart.Name) }}
{{- end }}

{{- /* Takes the list of context and component. */ -}}
{{- define "antiphon-lib.labels-of" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{ include "antiphon-lib.peer-labels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "antiphon-lib.metadata" -}}
{{ include "antiphon-lib.metadata-as" (list . (include "antiphon-lib.fullname" .)) }}
{{- end }}

{{- /* Takes the list of context and name. The labels come last, so that callers can add more. */ -}}
{{- define "antiphon-lib.metadata-as" -}}
{{- $root := index . 0 -}}
name: {{ include "antiphon-lib.checked-name" . }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "antiphon-lib.labels" $root | nindent 2 }}
{{- end }}

{{- define "antiphon-lib.service-account-name" -}}
{{- $own := .Values.serviceAccount.create | ternary (include "antiphon-lib.fullname" .) "default" -}}
{{ .Values.serviceAccount.name | default $own }}
{{- end }}

{{- define "antiphon-lib.image" -}}
{{ include "antiphon-lib.image-of" (list . .Chart.Name) }}
{{- end }}

{{- /* Return the image of a service. Takes the list of context and service. The umbrella knows the `image` of every
service; a chart that is installed alone knows only its own. */ -}}
{{- define "antiphon-lib.image-of" -}}
{{- $root := index . 0 -}}{{- $service := index . 1 -}}{{- $global := $root.Values.global.image -}}
{{- $values := eq $root.Chart.Name $service | ternary $root.Values (get $root.Values $service | default dict) -}}
{{ $values.image | default (printf "%s/antiphon-%s:%s" $global.registry $service ($global.tag | default $root.Chart.AppVersion)) }}
{{- end }}

{{- /* Return a third party's image with its registry. Takes the list of context and image. As in Docker, the part
before the first slash is a registry if it looks like a host. */ -}}
{{- define "antiphon-lib.mirrored-image" -}}
{{- $image := index . 1 -}}
{{- if regexMatch "^([^/]*[.:][^/]*|localhost)/" $image -}}
{{ $image }}
{{- else -}}
{{ printf "%s/%s" (index . 0).Values.global.image.mirror $image }}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.model-repository" -}}
{{- $sizes := include "antiphon-lib.sizing-table" . | fromJson -}}
{{ .Values.global.model.repository | default (get $sizes.models .Values.global.sizing.model).repository }}
{{- end }}

{{- define "antiphon-lib.model-folder" -}}
{{ include "antiphon-lib.model-repository" . | splitList "/" | last }}
{{- end }}

{{- define "antiphon-lib.served-name" -}}
{{ .Values.global.model.servedName | default (include "antiphon-lib.model-folder" .) }}
{{- end }}
