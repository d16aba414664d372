{{- /* Who may talk to whom. One table lists all hops; a policy holds the hops of its service. */ -}}

{{- define "antiphon-lib.hops" -}}
- {from: clients, to: gateway, ports: [http, grpc]}
- {from: gateway, to: preprocess, ports: [grpc]}
- {from: gateway, to: thinker, ports: [grpc]}
- {from: gateway, to: talker, ports: [grpc]}
- {from: thinker, to: preprocess, ports: [grpc]}
- {from: talker, to: thinker, ports: [grpc]}
- {from: keda, to: scaler, ports: [grpc]}
{{- include "antiphon-lib.control-hops" . }}
{{- range include "antiphon-lib.redis-users" . | fromJsonArray }}
- {from: {{ . }}, to: redis, ports: [redis]}
{{- end }}
{{- range list "gateway" "preprocess" "thinker" "talker" "scaler" "control" }}
- {from: {{ . }}, to: dns, ports: [dns]}
- {from: prometheus, to: {{ . }}, ports: [metrics]}
{{- if $.Values.global.monitoring.otlpEndpoint }}
- {from: {{ . }}, to: otlp, ports: [otlp]}
{{- end }}
{{- end }}
{{- if include "antiphon-lib.has-followers" . }}
- {from: thinker, to: thinker-follower, ports: []}
- {from: thinker-follower, to: thinker, ports: []}
- {from: thinker-follower, to: thinker-follower, ports: []}
- {from: thinker-follower, to: dns, ports: [dns]}
{{- end }}
{{- with .Values.redis }}{{ if .exporter.enabled }}
- {from: prometheus, to: redis, ports: [exporter]}
{{- end }}{{ end }}
{{- with .Values.webrtc }}{{ if .enabled }}
- {from: anyone, to: gateway, ports: [webrtc]}
- {from: gateway, to: internet, ports: [webrtc-peers]}
{{- end }}{{ end }}
{{- with .Values.objectStore }}{{ if .url }}
- {from: gateway, to: objectStore, ports: [objects]}
{{- end }}{{ end }}
{{- include "antiphon-lib.fetch-hops" . }}
- {from: weights, to: internet, ports: [web]}
- {from: weights, to: dns, ports: [dns]}
- {from: redis-auth, to: apiServer, ports: []}
{{- if include "antiphon-lib.writes-deletion-costs" . }}
- {from: scaler, to: apiServer, ports: [api]}
{{- end }}
{{- end }}

{{- /* For the table of hops: where preprocess fetches URLs from. An entry without ports would open all of them. */ -}}
{{- define "antiphon-lib.fetch-hops" -}}
{{- if eq .Chart.Name "preprocess" }}
{{- if and .Values.fetch.enabled (include "antiphon-lib.fetch-ports" . | fromJsonArray) }}
- {from: preprocess, to: internet, ports: [fetch]}
{{- if .Values.settings.fetch_networks }}
- {from: preprocess, to: fetch-networks, ports: [fetch]}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Return the ports of media URLs as JSON. */ -}}
{{- define "antiphon-lib.fetch-ports" -}}
{{ (.Values.settings | default dict).fetch_ports | default "[80, 443]" }}
{{- end }}

{{- /* For the table of hops: return "true" in the chart of a scaler that calls the API server. */ -}}
{{- define "antiphon-lib.writes-deletion-costs" -}}
{{- if eq .Chart.Name "scaler" -}}
{{- if .Values.podDeletionCost.enabled }}true{{ end -}}
{{- end -}}
{{- end }}

{{- /* Return the entries of `ports`. Takes the list of context and port names; no names = every port. */ -}}
{{- define "antiphon-lib.hop-ports" -}}
{{- $root := index . 0 -}}{{- $global := $root.Values.global -}}
{{- $numbers := dict "grpc" (list 9000) "metrics" (list 9090) "http" (list 8901) "admin" (list 8902) "exporter" (list 9121) "web" (list 80 443) "fetch" (include "antiphon-lib.fetch-ports" $root | fromJsonArray) "api" $global.networkPolicy.apiServerPorts -}}
{{- $_ := set $numbers "redis" (include "antiphon-lib.redis-ports" $root | fromJsonArray) -}}
{{- $_ := merge $numbers (include "antiphon-lib.control-ports" $root | fromJson) -}}
{{- with $root.Values.objectStore }}{{ $_ := set $numbers "objects" (list (include "antiphon-lib.url-port" (.endpoint | default "https://s3") | int)) }}{{ end -}}
{{- with $global.monitoring.otlpEndpoint }}{{ $_ := set $numbers "otlp" (list (splitList ":" . | last | int)) }}{{ end -}}
{{- range index . 1 -}}
{{- if eq . "dns" -}}
{{- range $global.networkPolicy.dnsPorts -}}
- {port: {{ . }}, protocol: UDP}
- {port: {{ . }}, protocol: TCP}
{{ end -}}
{{- else if eq . "webrtc" -}}
- {port: 8903, protocol: UDP}
{{ else if eq . "webrtc-peers" -}}
- {port: 1024, endPort: 65535, protocol: UDP}
{{ else -}}
{{- range get $numbers . -}}
- {port: {{ . }}, protocol: TCP}
{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Return the port of an http:// or https:// URL. */ -}}
{{- define "antiphon-lib.url-port" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- end }}

{{- /* Return the ports of Redis as JSON. A policy sees the port of the pod, not of its Service. The port of a URL in a
Secret is unknown here. */ -}}
{{- define "antiphon-lib.redis-ports" -}}
{{- $redis := .Values.global.redis -}}
{{- $found := list 6379 -}}
{{- if not (include "antiphon-lib.own-redis" .) -}}
{{- $found = empty $redis.urlSecret.name | ternary (list (int $redis.port)) list -}}
{{- range concat $redis.sentinel.nodes $redis.cluster.nodes }}{{ $found = append $found (splitList ":" . | last | int) }}{{ end -}}
{{- range .Values.global.networkPolicy.redisPorts }}{{ $found = append $found (int .) }}{{ end -}}
{{- end -}}
{{ uniq $found | toJson }}
{{- end }}

{{- /* Return the entries of `from` or `to`; none = anyone. Takes the list of context and peer. */ -}}
{{- define "antiphon-lib.hop-peers" -}}
{{- $root := index . 0 -}}{{- $peer := index . 1 -}}{{- $policy := $root.Values.global.networkPolicy -}}
{{- if eq $peer "internet" -}}
{{- $four := list -}}{{- $six := list -}}
{{- range $policy.privateRanges -}}
{{- if contains ":" . }}{{ $six = append $six . }}{{ else }}{{ $four = append $four . }}{{ end -}}
{{- end -}}
- ipBlock: {cidr: 0.0.0.0/0, except: {{ $four | toJson }}}
{{- if or (eq $root.Values.global.network.ipFamily "IPv6") (hasSuffix "DualStack" $root.Values.global.network.ipFamilyPolicy) }}
- ipBlock: {cidr: "::/0", except: {{ $six | toJson }}}
{{- end }}
{{- else if eq $peer "fetch-networks" -}}
{{- range $root.Values.settings.fetch_networks | fromJsonArray }}
- ipBlock: {cidr: {{ contains "/" . | ternary . (printf "%s/%s" . (contains ":" . | ternary "128" "32")) | quote }}}
{{- end }}
{{- else if eq $peer "anyone" -}}
{{- else if and (eq $peer "redis") (include "antiphon-lib.own-redis" $root) -}}
- podSelector:
    matchLabels:
      {{- include "antiphon-lib.peer-labels" (list $root "redis") | nindent 6 }}
{{- else if hasKey $policy $peer -}}
{{- with get $policy $peer }}{{ toYaml . }}{{ end -}}
{{- else -}}
- podSelector:
    matchLabels:
      {{- include "antiphon-lib.peer-labels" (list $root $peer) | nindent 6 }}
{{- end -}}
{{- end }}

{{- /* Return the rules of one side. Takes the list of context, name of this service, and "from" or "to". */ -}}
{{- define "antiphon-lib.hop-rules" -}}
{{- $root := index . 0 -}}{{- $own := index . 1 -}}{{- $side := index . 2 -}}
{{- $other := eq $side "to" | ternary "from" "to" -}}
{{- range include "antiphon-lib.hops" $root | fromYamlArray -}}
{{- if eq (get . $side) $own -}}
{{- $rule := dict -}}
{{- with include "antiphon-lib.hop-ports" (list $root .ports) | fromYamlArray }}{{ $_ := set $rule "ports" . }}{{ end -}}
{{- with include "antiphon-lib.hop-peers" (list $root (get . $other)) | fromYamlArray }}{{ $_ := set $rule $other . }}{{ end -}}
{{ list $rule | toYaml }}
{{ end -}}
{{- end -}}
{{- end }}

{{- /* Takes the list of context, name of the service, metadata and pod labels. */ -}}
{{- define "antiphon-lib.policy" -}}
{{- $root := index . 0 -}}{{- $own := index . 1 -}}
{{- $in := include "antiphon-lib.hop-rules" (list $root $own "to") -}}
{{- $out := include "antiphon-lib.hop-rules" (list $root $own "from") -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- index . 2 | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- index . 3 | nindent 6 }}
  # A side without rules lets nothing through. An empty list would differ from what the cluster stores.
  policyTypes: [Ingress, Egress]
  {{- with $in | trim }}
  ingress:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with $out | trim }}
  egress:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "antiphon-lib.network-policy" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.global.networkPolicy.enabled -}}
{{- include "antiphon-lib.policy" (list $root $root.Chart.Name (include "antiphon-lib.metadata" $root) (include "antiphon-lib.selector" $root)) -}}
{{- end -}}
{{- end }}
