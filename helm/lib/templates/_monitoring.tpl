{{- /* How Prometheus finds the metrics of a service. */ -}}

{{- define "antiphon-lib.metrics-service" -}}
{{- $root := index . 0 -}}
{{- if not (index . 1).headless -}}
{{- $name := printf "%s-metrics" (include "antiphon-lib.fullname" $root) -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "antiphon-lib.metadata-as" (list $root $name) | nindent 2 }}
    {{- include "antiphon-lib.job-label" $root | nindent 4 }}
spec:
  clusterIP: None
  {{- include "antiphon-lib.ip-families" $root | nindent 2 }}
  selector:
    {{- include "antiphon-lib.selector" $root | nindent 4 }}
  ports:
    - {name: metrics, port: 9090, targetPort: metrics}
{{- end -}}
{{- end }}

{{- /* Marks the Service that has the metrics port, with the job that alerts and dashboards know its metrics by. */ -}}
{{- define "antiphon-lib.job-label" -}}
antiphon/job: antiphon-{{ .Chart.Name }}
{{- end }}

{{- define "antiphon-lib.service-monitor" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.global.monitoring.serviceMonitor -}}
{{- if .enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "antiphon-lib.fullname" $root }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "antiphon-lib.with-given" (list "global.monitoring.serviceMonitor.labels" (include "antiphon-lib.labels" $root | fromYaml) .labels) | nindent 4 }}
spec:
  jobLabel: antiphon/job
  selector:
    matchLabels:
      {{- include "antiphon-lib.selector" $root | nindent 6 }}
      {{- include "antiphon-lib.job-label" $root | nindent 6 }}
  endpoints:
    {{- include "antiphon-lib.metrics-endpoint" . | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Takes global.monitoring.serviceMonitor. */ -}}
{{- define "antiphon-lib.metrics-endpoint" -}}
- port: metrics
  interval: {{ .interval }}
  # Alerts tell stacks and models apart by these labels.
  relabelings:
    - {sourceLabels: [__meta_kubernetes_service_label_antiphon_stack], targetLabel: stack}
    - {sourceLabels: [__meta_kubernetes_service_annotation_antiphon_model], targetLabel: model}
    {{- with .relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
