{{- /* The objects of a service. Each template takes the list of context and shape. */ -}}

{{- define "antiphon-lib.workload" -}}
{{- with (index . 0).Values.rollout -}}
{{- if not (regexMatch "[1-9]" (printf "%v %v" .maxSurge .maxUnavailable)) -}}
{{- fail (printf "%s.rollout: maxSurge and maxUnavailable are both 0, so no pod could be replaced. Raise one" (index $ 0).Chart.Name) -}}
{{- end -}}
{{- end -}}
{{- include (include "antiphon-lib.in-groups" . | empty | ternary "antiphon-lib.deployment" "antiphon-lib.group") . -}}
{{- end }}

{{- /* Render nothing if an autoscaler scales the service. */ -}}
{{- define "antiphon-lib.replicas" -}}
{{- if not (and .Values.autoscaling (ne .Values.autoscaling.type "none")) -}}
replicas: {{ int .Values.replicas }}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.deployment" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "antiphon-lib.metadata" $root | nindent 2 }}
spec:
  {{- include "antiphon-lib.replicas" $root | nindent 2 }}
  revisionHistoryLimit: 3
  # Longer than the drain of an old pod and the start of a new one.
  progressDeadlineSeconds: {{ add (int $shape.start_s) (include "antiphon-lib.grace-s" $root | int) 600 }}
  {{- if $shape.recreate }}
  strategy: {type: Recreate}
  {{- else }}
  strategy:
    rollingUpdate:
      maxSurge: {{ $root.Values.rollout.maxSurge }}
      maxUnavailable: {{ $root.Values.rollout.maxUnavailable }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "antiphon-lib.selector" $root | nindent 6 }}
  template:
    {{- include "antiphon-lib.pod" . | nindent 4 }}
{{- end }}

{{- /* The controller of LeaderWorkerSet makes a Service with the workload's name for itself. */ -}}
{{- define "antiphon-lib.service-metadata" -}}
{{- $more := include "antiphon-lib.in-groups" . | empty | ternary "" "-leader" -}}
{{ include "antiphon-lib.metadata-as" (list (index . 0) (printf "%s%s" (include "antiphon-lib.fullname" (index . 0)) $more)) }}
{{- end }}

{{- /* Workers are found through Redis, so their Service is headless and serves only the discovery of metrics. A Service
with an address may be published, so it has no metrics port: another one, headless, has it. */ -}}
{{- define "antiphon-lib.service" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
apiVersion: v1
kind: Service
metadata:
  {{- /* The model becomes a label of the scraped metrics. */}}
  {{- $own := $shape.model | default false | ternary (dict "antiphon/model" (include "antiphon-lib.served-name" $root)) dict }}
  {{- with include "antiphon-lib.with-given" (list (printf "%s.service.annotations" $root.Chart.Name) $own (dig "annotations" dict ($root.Values.service | default dict))) }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
  {{- include "antiphon-lib.service-metadata" . | nindent 2 }}
    {{- if $shape.headless }}
    {{- include "antiphon-lib.job-label" $root | nindent 4 }}
    {{- end }}
spec:
  {{- if $shape.headless }}
  clusterIP: None
  {{- else }}
  type: {{ dig "type" "ClusterIP" ($root.Values.service | default dict) }}
  {{- end }}
  {{- include "antiphon-lib.ip-families" $root | nindent 2 }}
  selector:
    {{- include "antiphon-lib.selector" $root | nindent 4 }}
  ports:
    - {name: grpc, port: 9000, targetPort: grpc, appProtocol: kubernetes.io/h2c}
    {{- if $shape.headless }}
    - {name: metrics, port: 9090, targetPort: metrics}
    {{- end }}
    {{- if $shape.http }}
    - {name: http, port: {{ $root.Values.port }}, targetPort: http, appProtocol: http}
    {{- end }}
{{- end }}

{{- define "antiphon-lib.ip-families" -}}
{{- with .Values.global.network.ipFamilyPolicy -}}
ipFamilyPolicy: {{ . }}
{{- if eq . "SingleStack" }}
ipFamilies: [{{ $.Values.global.network.ipFamily }}]
{{- end }}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.service-account" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "antiphon-lib.service-account-name" $root }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "antiphon-lib.labels" $root | nindent 4 }}
  {{- with $root.Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- define "antiphon-lib.disruption-budget" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.disruptionBudget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "antiphon-lib.metadata" $root | nindent 2 }}
spec:
  maxUnavailable: {{ $root.Values.disruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- if include "antiphon-lib.in-groups" . }}
      # Leaders and followers: evicting one takes its whole group.
      leaderworkerset.sigs.k8s.io/name: {{ include "antiphon-lib.fullname" $root }}
      {{- else }}
      {{- include "antiphon-lib.selector" $root | nindent 6 }}
      {{- end }}
{{- end }}
{{- end }}

{{- /* What every service's chart renders. */ -}}
{{- define "antiphon-lib.all" -}}
{{- include "antiphon-lib.check-service" . -}}
{{- range list "workload" "service" "metrics-service" "service-account" "disruption-budget" "network-policy" "followers-policy" "service-monitor" "autoscaling" }}
---
{{ include (printf "antiphon-lib.%s" .) $ }}
{{- end }}
{{- end }}
