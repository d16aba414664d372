{{- define "talker.shape" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- $plan := include "antiphon-lib.talker-plan" . | fromYaml -}}
{{- $slots := int .Values.slots | default (int $plan.slots) -}}
stage: talker
model: true
headless: true
start_s: {{ include "antiphon-lib.start-s" (list . (include "antiphon-lib.sizing-table" . | fromJson).talker_weights_gb 300) }}
slots: {{ $slots }}
settings:
  slots: {{ $slots }}
  device: {{ $plan.resource | empty | ternary "cpu" "cuda" }}
  memory_fraction: {{ .Values.memoryFraction | default $plan.fraction | quote }}
{{- if $plan.resource }}
gpu: {resource: {{ $plan.resource }}, count: 1}
{{- end }}
{{- end }}
