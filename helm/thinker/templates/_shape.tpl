{{- define "thinker.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- $plan := include "antiphon-lib.thinker-plan" . | fromYaml -}}
{{- $least := int $plan.tensor_parallel -}}
{{- $nodes := int $plan.nodes -}}
{{- $given := int .Values.tensorParallel | default $least -}}
{{- $sizing := .Values.global.sizing -}}
{{- if gt $given (int $sizing.gpusPerNode) -}}
{{- fail (printf "thinker.tensorParallel: %d is more than global.sizing.gpusPerNode, %v" $given $sizing.gpusPerNode) -}}
{{- end -}}
{{- if lt $given $least -}}
{{- fail (printf "thinker.tensorParallel: %d × %s are too few: the %s thinker with %v s of video needs %s GiB, at least %d%s. (Documented minimum for transformers in BF16 with FlashAttention 2, not a measurement.)" $given $sizing.gpu $sizing.model $sizing.video_s $plan.need_gib $least (eq $nodes 1 | ternary "" (printf " on each of %d nodes" $nodes))) -}}
{{- end -}}
{{- if and (gt $given 1) (or (not $plan.resource) (contains "mig" $plan.resource)) -}}
{{- fail (printf "thinker.tensorParallel: %d, but several %s cannot share a model. Set 1 or 0" $given $sizing.gpu) -}}
{{- end -}}
{{- $slots := int .Values.slots | default (int $plan.slots) -}}
stage: thinker
model: true
headless: true
nodes: {{ $nodes }}
shm: {{ .Values.shmSize }}
# All but reading: compiling, CUDA graphs, the warm-up.
start_s: {{ include "antiphon-lib.start-s" (list . (include "antiphon-lib.sizing-table" . | fromJson).thinker_weights_gb 600) }}
slots: {{ $slots }}
settings:
  slots: {{ $slots }}
  tensor_parallel_size: {{ $given }}
  gpu_memory_utilization: {{ $plan.fraction | quote }}
{{- if gt $nodes 1 }}
  pipeline_parallel_size: {{ $nodes }}
env:
  {{- include "antiphon-lib.group-env" . | nindent 2 }}
{{- end }}
{{- if $plan.resource }}
gpu: {resource: {{ $plan.resource }}, count: {{ $given }}}
{{- end }}
{{- end }}
