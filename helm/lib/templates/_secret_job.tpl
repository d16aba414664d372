{{- /* A job that makes a Secret with random values once, in the cluster, so that two renders of a chart are equal. */ -}}

{{- /* Annotations of a hook that runs before an install or upgrade and is deleted when it has succeeded. Takes the
weight, which orders hooks. */ -}}
{{- define "antiphon-lib.before-install" -}}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ . | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* Labels of the pods of a hook job. Takes the list of context and component. */ -}}
{{- define "antiphon-lib.hook-labels" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end }}

{{- /* Metadata of an object of a hook. Takes the list of context, component, name and weight. */ -}}
{{- define "antiphon-lib.hook-metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "antiphon-lib.checked-name" (list $root (index . 2)) }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "antiphon-lib.hook-labels" . | nindent 2 }}
  {{- include "antiphon-lib.peer-labels" . | nindent 2 }}
{{ include "antiphon-lib.before-install" (index . 3) }}
{{- end }}

{{- /* Takes a map: root = the context; component = the job's; owner = the component that the Secret is labelled with;
name and fields = the Secret's; oldName = a Secret whose values are taken over, "" = none; image; advice = what to do
about a Secret that lacks a field. */ -}}
{{- define "antiphon-lib.secret-job" -}}
{{- $root := .root -}}{{- $name := .name -}}
{{- $metadata := include "antiphon-lib.hook-metadata" (list $root .component $name "-10") -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- $metadata | nindent 2 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  {{- $metadata | nindent 2 }}
rules:
  - {apiGroups: [""], resources: [secrets], resourceNames: [{{ $name }}], verbs: [get, create, patch]}
  {{- with .oldName }}
  # Earlier versions of this chart kept the values in it.
  - {apiGroups: [""], resources: [secrets], resourceNames: [{{ . }}], verbs: [get]}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  {{- $metadata | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $name }}, namespace: {{ $root.Release.Namespace }}}
---
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "antiphon-lib.hook-metadata" (list $root .component $name "0") | nindent 2 }}
spec:
  backoffLimit: 4
  # Less than Helm's default timeout, so that a failed install points to the job.
  activeDeadlineSeconds: 240
  template:
    metadata:
      labels:
        {{- include "antiphon-lib.hook-labels" (list $root .component) | nindent 8 }}
        {{- include "antiphon-lib.peer-labels" (list $root .component) | nindent 8 }}
    spec:
      # A failed pod and its log stay until the next install or upgrade.
      restartPolicy: Never
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- include "antiphon-lib.pod-security" (list $root dict) | nindent 6 }}
      {{- include "antiphon-lib.pull-secrets" $root | nindent 6 }}
      containers:
        - name: make-secret
          image: {{ .image | quote }}
          imagePullPolicy: {{ $root.Values.global.image.pullPolicy }}
          command: [python, -c, {{ include "antiphon-lib.make-secret" $root | toJson }}]
          env:
            - {name: NAMESPACE, value: {{ $root.Release.Namespace }}}
            - {name: NAME, value: {{ $name }}}
            - {name: OLD_NAME, value: {{ .oldName | quote }}}
            - {name: FIELDS, value: {{ .fields | toJson | quote }}}
            - {name: ADVICE, value: {{ .advice | quote }}}
            # Not app.kubernetes.io/instance: by that label Argo CD would claim the Secret, and prune it.
            - {name: LABELS, value: {{ include "antiphon-lib.peer-labels" (list $root .owner) | fromYaml | toJson | quote }}}
          resources:
            requests: {cpu: 50m, memory: 128Mi}
            limits: {memory: 128Mi}
          {{- include "antiphon-lib.container-security" (list $root dict) | nindent 10 }}
{{- if $root.Values.global.networkPolicy.enabled }}
---
{{ include "antiphon-lib.policy" (list $root .component $metadata (include "antiphon-lib.hook-labels" (list $root .component))) }}
{{- end }}
{{- end }}
