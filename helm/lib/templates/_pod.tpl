{{- /* The pod of a service. */ -}}

{{- /* An annotation for pods that read a ConfigMap or Secret of these charts, so that a change rolls them. Takes the
list of the object's name and data. */ -}}
{{- define "antiphon-lib.checksum" -}}
checksum/{{ index . 0 }}: {{ index . 1 | toJson | sha256sum }}
{{- end }}

{{- /* The grace period: the gateway's shutdown delay, the drain, and what the process needs to end. */ -}}
{{- define "antiphon-lib.grace-s" -}}
{{ add (int (.Values.shutdownDelay_s | default 0)) (int .Values.drain_s) 10 }}
{{- end }}

{{- /* An autoscaler that waits less than the grace period would cut streams. "true" also lets it evict a pod with
emptyDirs, which hold nothing that must last. */ -}}
{{- define "antiphon-lib.safe-to-evict" -}}
{{- $limit_s := int .Values.global.maxGracefulTermination_s -}}
{{- $fits := or (eq $limit_s 0) (le (include "antiphon-lib.grace-s" . | int) $limit_s) -}}
cluster-autoscaler.kubernetes.io/safe-to-evict: {{ $fits | toString | quote }}
{{- end }}

{{- /* The pods of a group are not spread, because they talk to each other at every step. */ -}}
{{- define "antiphon-lib.scheduling" -}}
{{- $root := index . 0 -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" "schedulerName" }}
{{- with get $root.Values $key }}
{{ $key }}: {{ kindIs "string" . | ternary (quote .) (toYaml . | nindent 2) }}
{{- end }}
{{- end }}
{{- if not (index . 1).follower }}
{{- with $root.Values.spreadOver }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "antiphon-lib.selector" $root | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "antiphon-lib.volumes" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
- {name: tmp, emptyDir: {sizeLimit: {{ $shape.tmpSize | default "8Gi" }}}}
- {name: cache, emptyDir: {sizeLimit: {{ $root.Values.cacheSize }}}}
{{- if $shape.model }}
- name: weights
  persistentVolumeClaim: {claimName: {{ include "antiphon-lib.weights-claim" $root }}, readOnly: true}
{{- end }}
{{- with $shape.shm }}
- {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ . }}}}
{{- end }}
{{- with include "antiphon-lib.mounted-redis-ca" $root }}
- {name: redis-tls, secret: {secretName: {{ . }}}}
{{- end }}
{{- with $shape.tenants }}
- {name: tenants, secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: tenants.json}]}}
{{- end }}
{{- if $shape.apiAccess }}
- name: api-access
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- with $shape.volumes }}
{{ toYaml . }}
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "antiphon-lib.pod" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
metadata:
  labels:
    {{- $own := include "antiphon-lib.labels-of" (list $root ($shape.follower | default $root.Chart.Name)) }}
    {{- include "antiphon-lib.with-given" (list (printf "%s.podLabels" $root.Chart.Name) ($own | fromYaml) $root.Values.podLabels) | nindent 4 }}
  annotations:
    {{- merge (dict) $root.Values.podAnnotations (include "antiphon-lib.safe-to-evict" $root | fromYaml) | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "antiphon-lib.service-account-name" $root }}
  automountServiceAccountToken: false
  # For a release called antiphon, service links would set ANTIPHON_* variables; a service refuses unknown ones.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "antiphon-lib.grace-s" $root }}
  {{- include "antiphon-lib.pod-security" (list $root $root.Values) | nindent 2 }}
  {{- include "antiphon-lib.pull-secrets" $root | nindent 2 }}
  {{- with include "antiphon-lib.scheduling" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- $wait := and $shape.model (not $root.Values.global.weights.existingClaim) }}
  {{- if or $wait $root.Values.initContainers }}
  initContainers:
    {{- if $wait }}
    - name: wait-for-weights
      {{- include "antiphon-lib.wait-for-weights" $root | nindent 6 }}
    {{- end }}
    {{- with $root.Values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - {{ include "antiphon-lib.container" . | nindent 6 | trim }}
    {{- with $root.Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $volumes := include "antiphon-lib.volumes" . }}
  {{- include "antiphon-lib.check-unique" (list (printf "%s.extraVolumes" $root.Chart.Name) ($volumes | fromYamlArray)) }}
  {{- $containers := list (dict "name" $root.Chart.Name) (dict "name" "wait-for-weights") }}
  {{- include "antiphon-lib.check-unique" (list (printf "%s.extraContainers or initContainers" $root.Chart.Name) (concat $containers $root.Values.extraContainers $root.Values.initContainers)) }}
  volumes:
    {{- $volumes | nindent 4 }}
{{- end }}
