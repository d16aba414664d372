{{- /* Refusals that no schema can express. Each message starts with the name of the value. */ -}}

{{- /* Return the name of an object, or refuse it if it is too long. List of context, name, and how many characters it may have: 63
unless given. */ -}}
{{- define "antiphon-lib.checked-name" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}{{- $most := 63 -}}
{{- if gt (len . ) 2 }}{{ $most = index . 2 }}{{ end -}}
{{- if gt (len $name) $most -}}
{{- fail (printf "the release's name (or fullnameOverride, or global.stack): %s has %d characters, and Kubernetes takes %d. Shorten it by %d" $name (len $name) $most (sub (len $name) $most)) -}}
{{- end -}}
{{ $name }}
{{- end }}

{{- /* Return the chart's labels or annotations and the user's as YAML; refuse keys that both set. List of the value's name, the
chart's, the user's. */ -}}
{{- define "antiphon-lib.with-given" -}}
{{- $own := index . 1 -}}
{{- range $key, $_ := index . 2 -}}
{{- if hasKey $own $key -}}
{{- fail (printf "%s: the chart itself sets %s. Remove it" (index $ 0) $key) -}}
{{- end -}}
{{- end -}}
{{- with merge (dict) $own (index . 2) }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- /* Refuse two entries of the same name. List of the value's name, entries with a `name`. */ -}}
{{- define "antiphon-lib.check-unique" -}}
{{- $seen := dict -}}
{{- range index . 1 -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "%s: %s is set twice, or the chart itself sets it. Remove one" (index $ 0) .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end }}

{{- /* Helm drops a value that is given as null, and its default with it. `helm upgrade --reuse-values` drops the defaults that a newer
chart has. Each service's shape begins with this check, before anything reads a value. */ -}}
{{- define "antiphon-lib.check-present" -}}
{{- $values := .Values | toJson | fromJson -}}
{{- $wanted := include (printf "antiphon-lib.value-paths-of-%s" .Chart.Name) . | fromJsonArray -}}
{{- $wanted = concat $wanted (include "antiphon-lib.value-paths-of-global" . | fromJsonArray) -}}
{{- $prefix := .Chart.IsRoot | ternary "" (printf "%s." .Chart.Name) -}}
{{- range $path := $wanted -}}
{{- $at := $values -}}
{{- range splitList "." $path -}}
{{- $at = kindIs "map" $at | ternary (index ($at | default dict) .) nil -}}
{{- end -}}
{{- if kindIs "invalid" $at -}}
{{- fail (printf "%s%s: it has no value, not even its default. Do not set it to null; leave the key out. Upgrade with --reset-then-reuse-values instead of --reuse-values" (hasPrefix "global." $path | ternary "" $prefix) $path) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Check a service's chart. List of context, shape. */ -}}
{{- define "antiphon-lib.check-service" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}
{{- if $shape.model -}}
{{- include "antiphon-lib.check-model" $root -}}
{{- include "antiphon-lib.check-slots" . -}}
{{- end -}}
{{- if $shape.stage -}}
{{- include "antiphon-lib.check-hand-over" $root -}}
{{- end -}}
{{- end }}

{{- /* Refuse a drain that ends before its calls are handed over. */ -}}
{{- define "antiphon-lib.check-hand-over" -}}
{{- $after := hasKey .Values.settings "hand_over_after_s" | ternary .Values.settings.hand_over_after_s 5 -}}
{{- if le (float64 .Values.drain_s) (float64 $after) -}}
{{- fail (printf "%s.drain_s: %v s end before running calls are handed over to other workers, %v s after SIGTERM. Use more, or set %s.settings.hand_over_after_s to less" .Chart.Name .Values.drain_s $after .Chart.Name) -}}
{{- end -}}
{{- end }}

{{- /* Refuse a checkpoint if its name says another kind than the sizes. */ -}}
{{- define "antiphon-lib.check-model" -}}
{{- $model := .Values.global.sizing.model -}}
{{- $repository := include "antiphon-lib.model-repository" . -}}
{{- range list "instruct" "thinking" "captioner" -}}
{{- if and (ne . $model) (contains . (lower $repository)) (not (contains $model (lower $repository))) -}}
{{- fail (printf "global.model.repository: %s is a %s checkpoint, and global.sizing.model is %s. Make them agree" $repository . $model) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Refuse slots and lengths that the GPUs cannot hold. List of context, shape. */ -}}
{{- define "antiphon-lib.check-slots" -}}
{{- $root := index . 0 -}}{{- $shape := index . 1 -}}{{- $sizing := $root.Values.global.sizing -}}
{{- if ne $sizing.gpu "cpu" -}}
{{- $plan := include "antiphon-lib.thinker-plan" $root | fromYaml -}}
{{- $len := include "antiphon-lib.max-model-len" $root | int -}}
{{- $more := gt (int $root.Values.tensorParallel) (int $plan.tensor_parallel) -}}
{{- if and (gt $len (int $plan.tokens)) (not $more) -}}
{{- fail (printf "global.model.maxModelLen: %d tokens do not fit: the KV cache on %d × %s holds %d. Use fewer tokens, or larger or more GPUs (global.sizing)" $len (mul (int $plan.tensor_parallel) (int $plan.nodes)) $sizing.gpu (int $plan.tokens)) -}}
{{- end -}}
{{- if and (eq $root.Chart.Name "thinker") (not $more) (gt (mul (int $shape.slots) 1024) (int $plan.tokens)) -}}
{{- fail (printf "thinker.slots: %d leave each request less than 1024 tokens: the KV cache on %d × %s holds %d. Use at most %d" (int $shape.slots) (mul (int $plan.tensor_parallel) (int $plan.nodes)) $sizing.gpu (int $plan.tokens) (div (int $plan.tokens) 1024)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $root.Chart.Name "talker") $shape.gpu -}}
{{- $plan := include "antiphon-lib.talker-plan" $root | fromYaml -}}
{{- if gt (int $shape.slots) (int $plan.most_slots) -}}
{{- fail (printf "talker.slots: %d streams do not fit: %s holds %d, by the talker's own memory plan. Use fewer slots or a larger GPU (global.sizing.talkerGpu)" (int $shape.slots) ($sizing.talkerGpu | default $sizing.gpu) (int $plan.most_slots)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Refuse a volume that is too small for the weights. Checkpoints for the CPU may have any size. */ -}}
{{- define "antiphon-lib.check-claim" -}}
{{- if ne .Values.global.sizing.gpu "cpu" -}}
{{- $table := include "antiphon-lib.sizing-table" . | fromJson -}}
{{- $gb := add $table.thinker_weights_gb (include "antiphon-lib.speaks" . | empty | ternary 0 $table.talker_weights_gb) -}}
{{- $size := .Values.global.weights.claim.size -}}
{{- $gib := hasSuffix "Ti" $size | ternary (mul 1024 (trimSuffix "Ti" $size | int)) (trimSuffix "Gi" $size | int) -}}
{{- $need := add1 (div (mul $gb 1000000000) 1073741824) -}}
{{- if lt $gib $need -}}
{{- fail (printf "global.weights.claim.size: %s is too small: the weights of %s take %dGi" $size (include "antiphon-lib.model-repository" .) $need) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Check how the weights get into the volume. */ -}}
{{- define "antiphon-lib.check-weights" -}}
{{- $own := list -}}
{{- range list "REPOSITORY" "REVISION" "TARGET" "MARK" "HOME" "ENDPOINT" "HF_ENDPOINT" "HF_TOKEN" "WEIGHTS_TOKEN" }}{{ $own = append $own (dict "name" .) }}{{ end -}}
{{- include "antiphon-lib.check-unique" (list "global.weights.download.env" (concat $own .Values.global.weights.download.env)) -}}
{{- include "antiphon-lib.check-claim" . -}}
{{- $weights := .Values.global.weights -}}
{{- if and $weights.download.command (not $weights.download.checksums) -}}
{{- fail "global.weights.download.checksums: set the checksums, as nothing else checks the files of your own command" -}}
{{- end -}}
{{- if and (eq $weights.download.source "modelscope") $weights.download.command -}}
{{- fail "global.weights.download.command: source modelscope has a command of its own. Remove one" -}}
{{- end -}}
{{- if and $weights.download.image (not $weights.download.command) -}}
{{- fail "global.weights.download.command: set the command that your own image runs" -}}
{{- end -}}
{{- end }}
