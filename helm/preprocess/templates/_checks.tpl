{{- /* The processes at rest, the caches and the least that requests need must fit: a pod that exceeds its memory is killed. The numbers
are those of services/preprocess/memory.py and settings.py. */ -}}
{{- define "preprocess.check-memory" -}}
{{- $settings := .Values.settings -}}{{- $memory := .Values.resources.memory -}}
{{- $has := mul (regexFind "[0-9]+" $memory | int64) (hasSuffix "Gi" $memory | ternary 1073741824 1048576) -}}
{{- $caches := add (int64 (dig "feature_bytes" 4294967296 $settings)) (int64 (dig "sound_bytes" 268435456 $settings)) -}}
{{- $needs := add 2147483648 $caches (int64 ($settings.memory_bytes | default 1073741824)) -}}
{{- if gt $needs $has -}}
{{- fail (printf "preprocess.resources.memory: %s is less than the %d MiB that its processes, caches and requests take. Raise it, or lower preprocess.settings.feature_bytes or memory_bytes" $memory (div $needs 1048576)) -}}
{{- end -}}
{{- end }}
