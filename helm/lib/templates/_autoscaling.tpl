{{- /* Scaling of a service that takes tickets (shape.stage), by KEDA or by an HPA on the scaler's metric. */ -}}

{{- define "antiphon-lib.scaler-address" -}}
{{- $own := printf "%s-scaler.%s:9000" (include "antiphon-lib.owner" .) .Release.Namespace -}}
{{ .Values.global.scaler.address | default $own }}
{{- end }}

{{- define "antiphon-lib.check-autoscaling" -}}
{{- $root := index . 0 -}}{{- $given := $root.Values.autoscaling -}}
{{- $name := printf "%s.autoscaling" $root.Chart.Name -}}
{{- if gt (int $given.minReplicas) (int $given.maxReplicas) -}}
{{- fail (printf "%s.minReplicas: %d is more than maxReplicas, %d. Lower one or raise the other" $name (int $given.minReplicas) (int $given.maxReplicas)) -}}
{{- end -}}
{{- if and $given.extraTriggers (ne $given.type "keda") -}}
{{- fail (printf "%s.extraTriggers: only type keda has triggers, and the type is %s" $name $given.type) -}}
{{- end -}}
{{- if eq (int $given.minReplicas) 0 -}}
{{- if ne $given.type "keda" -}}
{{- fail (printf "%s.minReplicas: 0 needs type keda. Type %s cannot start the first pod" $name $given.type) -}}
{{- end -}}
{{- if not (int $root.Values.global.cold_start_s) -}}
{{- fail (printf "global.cold_start_s: 0 refuses every request while %s.minReplicas is 0 and no pod runs. Set how many seconds a request may wait" $name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.autoscaling" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}{{- $given := $root.Values.autoscaling -}}
{{- if and $shape.stage (ne $given.type "none") -}}
{{- include "antiphon-lib.check-autoscaling" . -}}
{{- if eq $given.type "keda" -}}
{{- include "antiphon-lib.scaled-object" . -}}
{{- else -}}
{{- include "antiphon-lib.hpa" . -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The scaler's policy has its own delay and its own steps, so the HPA adds none. */ -}}
{{- define "antiphon-lib.scale-behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 15}
    - {type: Pods, value: 4, periodSeconds: 15}
scaleDown:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 15}
{{- end }}

{{- /* What the scaler needs to know about a stage. KEDA passes it on with each call; for an HPA it is a setting of the
scaler. */ -}}
{{- define "antiphon-lib.trigger" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}{{- $given := $root.Values.autoscaling -}}
stage: {{ $shape.stage }}
model: {{ include "antiphon-lib.served-name" $root | quote }}
slotsPerReplica: {{ $shape.slots | quote }}
targetUtilization: {{ $given.targetUtilization | quote }}
maxWaitSeconds: {{ $given.maxWait_s | int | quote }}
minReplicas: {{ $given.minReplicas | int | quote }}
maxReplicas: {{ $given.maxReplicas | int | quote }}
scaleDownDelaySeconds: {{ $given.scaleDownDelay_s | int | quote }}
{{- end }}

{{- /* A replica of a group is the whole group. */ -}}
{{- define "antiphon-lib.scale-target" -}}
{{- $kind := include "antiphon-lib.in-groups" . | empty | ternary (dict "apiVersion" "apps/v1" "kind" "Deployment") (dict "apiVersion" "leaderworkerset.x-k8s.io/v1" "kind" "LeaderWorkerSet") -}}
{{ set $kind "name" (include "antiphon-lib.fullname" (index . 0)) | toJson }}
{{- end }}

{{- define "antiphon-lib.scaled-object" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}{{- $given := $root.Values.autoscaling -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "antiphon-lib.metadata" $root | nindent 2 }}
spec:
  scaleTargetRef: {{ include "antiphon-lib.scale-target" . }}
  minReplicaCount: {{ int $given.minReplicas }}
  maxReplicaCount: {{ int $given.maxReplicas }}
  pollingInterval: 5
  cooldownPeriod: 0
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- include "antiphon-lib.scale-behavior" $root | nindent 8 }}
  triggers:
    - type: external-push
      metadata:
        scalerAddress: {{ include "antiphon-lib.scaler-address" $root | quote }}
        {{- include "antiphon-lib.trigger" . | nindent 8 }}
    {{- with $given.extraTriggers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "antiphon-lib.hpa" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}{{- $given := $root.Values.autoscaling -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "antiphon-lib.metadata" $root | nindent 2 }}
spec:
  scaleTargetRef: {{ include "antiphon-lib.scale-target" . }}
  minReplicas: {{ int $given.minReplicas }}
  maxReplicas: {{ int $given.maxReplicas }}
  behavior:
    {{- include "antiphon-lib.scale-behavior" $root | nindent 4 }}
  metrics:
    - type: External
      external:
        metric:
          name: antiphon_scaler_wanted_replicas
          selector:
            matchLabels:
              stage: {{ $shape.stage }}
              model: {{ include "antiphon-lib.served-name" $root | quote }}
        target: {type: AverageValue, averageValue: "1"}
{{- end }}
