{{- /* Refusals that need the values of several services. Each message starts with the name of the value. */ -}}

{{- define "antiphon.checks" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- include "antiphon.check-scaler" . -}}
{{- include "antiphon.check-names" . -}}
{{- end }}

{{- define "antiphon.check-scaler" -}}
{{- range $name := list "preprocess" "thinker" "talker" -}}
{{- $type := dig $name "autoscaling" "type" "none" (toJson $.Values | fromJson) -}}
{{- if and (hasKey $.Subcharts $name) (not $.Subcharts.scaler) (not (and (eq $type "keda") $.Values.global.scaler.address)) (ne $type "none") -}}
{{- fail (printf "scaler.enabled: %s.autoscaling.type %s needs the scaler. Enable it%s" $name $type (eq $type "keda" | ternary ", or set global.scaler.address to another one" "")) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "antiphon.check-names" -}}
{{- $seen := dict (include "antiphon-lib.redis-name" .) "redis" -}}
{{- range $name := list "control" "gateway" "preprocess" "scaler" "talker" "thinker" -}}
{{- with get $.Subcharts $name -}}
{{- $full := include "antiphon-lib.fullname" . -}}
{{- if hasKey $seen $full -}}
{{- fail (printf "%s.fullnameOverride: %s is the name of %s too. Give each service a name of its own" $name $full (get $seen $full)) -}}
{{- end -}}
{{- $_ := set $seen $full $name -}}
{{- end -}}
{{- end -}}
{{- end }}
