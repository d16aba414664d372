{{- /* The control plane's part in the table of hops. */ -}}

{{- define "antiphon-lib.control-hops" -}}
{{- if eq .Chart.Name "control" }}
- {from: gateway, to: control, ports: [grpc]}
{{- if .Values.global.networkPolicy.gateways }}
- {from: gateways, to: control, ports: [grpc]}
{{- end }}
{{- if .Values.global.networkPolicy.operators }}
- {from: operators, to: control, ports: [admin]}
{{- end }}
{{- if not (include "control.on-sqlite" .) }}
- {from: control, to: database, ports: [database]}
- {from: control-migrate, to: database, ports: [database]}
- {from: control-migrate, to: dns, ports: [dns]}
{{- end }}
{{- if (.Values.settings | default dict).events_url }}
- {from: control, to: internet, ports: [web]}
{{- end }}
- {from: control-auth, to: apiServer, ports: []}
{{- end }}
{{- if eq .Chart.Name "gateway" }}
{{- with .Values.control.address }}
- {from: gateway, to: {{ $.Values.control.own | default false | ternary "control" "controlPlane" }}, ports: [control]}
{{- end }}
{{- end }}
{{- end }}

{{- /* Return the ports of these hops as JSON. */ -}}
{{- define "antiphon-lib.control-ports" -}}
{{- $found := dict -}}
{{- if eq .Chart.Name "control" }}{{ $_ := set $found "database" (list (int .Values.database.port)) }}{{ end -}}
{{- if eq .Chart.Name "gateway" -}}
{{- with .Values.control.address }}{{ $_ := set $found "control" (list (splitList ":" . | last | int)) }}{{ end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}
