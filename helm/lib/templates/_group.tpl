{{- /* A worker on several nodes is a LeaderWorkerSet. Other services call the leader; the followers run the same
command and talk only to their group. */ -}}

{{- /* Return "true" if a replica is a group of pods. Takes the list of context and shape. */ -}}
{{- define "antiphon-lib.in-groups" -}}
{{- if gt (int (index . 1).nodes) 1 }}true{{ end -}}
{{- end }}

{{- /* For the table of hops: return "true" in the chart of a thinker on several nodes. */ -}}
{{- define "antiphon-lib.has-followers" -}}
{{- if eq .Chart.Name "thinker" -}}
{{- if gt (int (include "antiphon-lib.thinker-plan" . | fromYaml).nodes) 1 }}true{{ end -}}
{{- end -}}
{{- end }}

{{- /* The controller puts LWS_* before all other variables of a container. */ -}}
{{- define "antiphon-lib.group-env" -}}
- {name: ANTIPHON_NODES, value: $(LWS_GROUP_SIZE)}
- {name: ANTIPHON_NODE_RANK, value: $(LWS_WORKER_INDEX)}
- {name: ANTIPHON_MASTER_ADDRESS, value: $(LWS_LEADER_ADDRESS)}
- {name: VLLM_HOST_IP, value: $(POD_IP)}
{{- end }}

{{- define "antiphon-lib.group" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}{{- $group := $root.Values.group -}}
{{- $follower := merge (dict "follower" (printf "%s-follower" $root.Chart.Name)) $shape -}}
{{- include "antiphon-lib.check-group-rollout" $root -}}
{{- /* A pod's label adds a group's number and a hash to it. */ -}}
{{- $_ := include "antiphon-lib.checked-name" (list $root (include "antiphon-lib.fullname" $root) 49) -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  {{- include "antiphon-lib.metadata" $root | nindent 2 }}
  {{- with include "antiphon-lib.group-topology" . }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
spec:
  {{- include "antiphon-lib.replicas" $root | nindent 2 }}
  # Leader and followers wait for each other.
  startupPolicy: LeaderCreated
  rolloutStrategy:
    type: RollingUpdate
    rollingUpdateConfiguration:
      maxSurge: {{ $root.Values.rollout.maxSurge }}
      maxUnavailable: {{ $root.Values.rollout.maxUnavailable }}
  leaderWorkerTemplate:
    size: {{ int $shape.nodes }}
    # An engine that has lost a rank cannot take it back.
    restartPolicy: RecreateGroupOnPodRestart
    {{- with int $group.subGroupSize }}
    subGroupPolicy: {subGroupPolicyType: LeaderWorker, subGroupSize: {{ . }}}
    {{- end }}
    leaderTemplate:
      {{- include "antiphon-lib.pod" . | nindent 6 }}
    workerTemplate:
      {{- include "antiphon-lib.pod" (list $root $follower) | nindent 6 }}
{{- end }}

{{- /* The controller rounds a percentage of the groups down and accepts 0, which never rolls. Autoscaling starts at one
group. */ -}}
{{- define "antiphon-lib.check-group-rollout" -}}
{{- $share := toString .Values.rollout.maxUnavailable -}}
{{- if and (hasSuffix "%" $share) (not (regexMatch "[1-9]" (toString .Values.rollout.maxSurge))) -}}
{{- $groups := include "antiphon-lib.replicas" . | fromYaml | dig "replicas" 1 | int -}}
{{- if lt (mul (trimSuffix "%" $share | int) $groups) 100 -}}
{{- fail (printf "%s.rollout.maxUnavailable: %s of %d is less than one group, and maxSurge is 0. Give a number of groups" .Chart.Name $share $groups) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.group-topology" -}}
{{- $root := index . 0 -}}{{- $group := $root.Values.group -}}{{- $nodes := int (index . 1).nodes -}}
{{- $name := printf "%s.group" $root.Chart.Name -}}
{{- if and $group.subGroupTopology (not (int $group.subGroupSize)) -}}
{{- fail (printf "%s.subGroupSize: set how many pods share a %s, as subGroupTopology is set" $name $group.subGroupTopology) -}}
{{- end -}}
{{- if int $group.subGroupSize -}}
{{- if mod $nodes (int $group.subGroupSize) -}}
{{- fail (printf "%s.subGroupSize: %d does not divide the %d nodes of a group" $name (int $group.subGroupSize) $nodes) -}}
{{- end -}}
{{- end -}}
{{- $found := dict -}}
{{- with $group.exclusiveTopology }}{{ $_ := set $found "leaderworkerset.sigs.k8s.io/exclusive-topology" . }}{{ end -}}
{{- with $group.subGroupTopology }}{{ $_ := set $found "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology" . }}{{ end -}}
{{- with $found }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- /* A policy selects labels, not groups, so all leaders and followers of a stack may talk to each other. Nobody else
may talk to the followers. */ -}}
{{- define "antiphon-lib.followers-policy" -}}
{{- $root := index . 0 -}}
{{- if and (include "antiphon-lib.in-groups" .) $root.Values.global.networkPolicy.enabled -}}
{{- $name := printf "%s-follower" $root.Chart.Name -}}
{{- $metadata := dict "name" (include "antiphon-lib.checked-name" (list $root (printf "%s-follower" (include "antiphon-lib.fullname" $root)))) "namespace" $root.Release.Namespace "labels" (include "antiphon-lib.labels-of" (list $root $name) | fromYaml) -}}
{{- $pods := dict "app.kubernetes.io/name" $name "app.kubernetes.io/instance" $root.Release.Name -}}
{{- include "antiphon-lib.policy" (list $root $name (toYaml $metadata) (toYaml $pods)) -}}
{{- end -}}
{{- end }}
