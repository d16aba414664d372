{{- /* Plans from the sizing table, which services/sizing computes. */ -}}

{{- /* Return the thinker's plan: {tensor_parallel (GPUs of one node), nodes, max_model_len, fraction, slots, resource};
resource "" = the CPU. */ -}}
{{- define "antiphon-lib.thinker-plan" -}}
{{- $table := include "antiphon-lib.sizing-table" . | fromJson -}}
{{- $sizing := .Values.global.sizing -}}
{{- include "antiphon-lib.check-profile" (list $table "global.sizing.gpu" $sizing.gpu) -}}
{{- $of := get (get $table.thinker $sizing.model) (toString $sizing.video_s) -}}
{{- if not $of -}}
{{- fail (printf "global.sizing.video_s: %v: the captioner takes 15 only, its one (estimated) size" $sizing.video_s) -}}
{{- end -}}
{{- if eq $sizing.gpu "cpu" -}}
{{- dict "tensor_parallel" 1 "nodes" 1 "max_model_len" 32768 "fraction" "0.95" "slots" 8 "resource" "" | toYaml -}}
{{- else -}}
{{- $plan := get $of $sizing.gpu -}}
{{- with $plan.refused -}}
{{- fail (printf "global.sizing: %s. (Documented minimum for transformers in BF16 with FlashAttention 2, not a measurement.)" .) -}}
{{- end -}}
{{- $nodes := 1 -}}
{{- if gt (int $plan.tensor_parallel) (int $sizing.gpusPerNode) -}}
{{- range splitList " " $plan.nodes -}}
{{- if hasPrefix (printf "%v:" $sizing.gpusPerNode) . }}{{ $nodes = splitList ":" . | last | int }}{{ end -}}
{{- end -}}
{{- if or (not $nodes) (gt $nodes (int $sizing.maxNodes)) -}}
{{- $several := $nodes | empty | ternary "no number of such nodes holds it" (printf "global.sizing.maxNodes allows %v, and %d such nodes hold it" $sizing.maxNodes $nodes) -}}
{{- fail (printf "global.sizing.gpusPerNode: the %s thinker with %v s of video needs %s GiB: %d × %s on one node, and there are %v; %s. (Documented minimum for transformers in BF16 with FlashAttention 2, not a measurement.)" $sizing.model $sizing.video_s $plan.need_gib (int $plan.tensor_parallel) $sizing.gpu $sizing.gpusPerNode $several) -}}
{{- end -}}
{{- $_ := set $plan "tensor_parallel" $sizing.gpusPerNode -}}
{{- end -}}
{{- $_ := set $plan "nodes" $nodes -}}
{{- set $plan "resource" (get $table.resources $sizing.gpu) | toYaml -}}
{{- end -}}
{{- end }}

{{- /* Return the talker's plan: {fraction, slots, resource}. */ -}}
{{- define "antiphon-lib.talker-plan" -}}
{{- $table := include "antiphon-lib.sizing-table" . | fromJson -}}
{{- $sizing := .Values.global.sizing -}}
{{- $gpu := $sizing.talkerGpu | default $sizing.gpu -}}
{{- include "antiphon-lib.check-profile" (list $table "global.sizing.talkerGpu" $gpu) -}}
{{- if eq $gpu "cpu" -}}
{{- dict "fraction" "0.9" "slots" 8 "resource" "" | toYaml -}}
{{- else -}}
{{- $plan := get (get $table.talker (toString $sizing.video_s)) $gpu -}}
{{- with $plan.refused -}}
{{- fail (printf "global.sizing.talkerGpu: %s. (By the talker's own memory plan.)" .) -}}
{{- end -}}
{{- set $plan "resource" (get $table.resources $gpu) | toYaml -}}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.check-profile" -}}
{{- $known := append (keys (index . 0).resources | sortAlpha) "cpu" -}}
{{- if not (has (index . 2) $known) -}}
{{- fail (printf "%s: %s is unknown. Use one of %s" (index . 1) (index . 2) (join ", " $known)) -}}
{{- end -}}
{{- end }}

{{- /* Return "true" if the model has a talker. */ -}}
{{- define "antiphon-lib.speaks" -}}
{{- $table := include "antiphon-lib.sizing-table" . | fromJson -}}
{{- if (get $table.models .Values.global.sizing.model).speaks }}true{{ end -}}
{{- end }}

{{- define "antiphon-lib.max-model-len" -}}
{{ .Values.global.model.maxModelLen | default (include "antiphon-lib.thinker-plan" . | fromYaml).max_model_len | int }}
{{- end }}

{{- /* Return the seconds that a start may take. Takes the list of context, GB of weights, and seconds for all but
reading. */ -}}
{{- define "antiphon-lib.start-s" -}}
{{- $root := index . 0 -}}
{{- $reading := div (mul (int (index . 1)) 1000) (int $root.Values.global.weights.readMBps) -}}
{{ $root.Values.start_s | default (add (mul 2 $reading) (int (index . 2))) | int }}
{{- end }}
