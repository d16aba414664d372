{{- /* How services reach Redis. */ -}}

{{- define "antiphon-lib.check-redis" -}}
{{- $redis := .Values.global.redis -}}
{{- $url := $redis.urlSecret.name -}}
{{- $nodes := $redis.sentinel.nodes -}}
{{- $cluster := $redis.cluster.nodes -}}
{{- if and $url (or $redis.host $nodes $cluster $redis.tls.enabled) -}}
{{- fail "global.redis.urlSecret: the URL holds the address and says whether it uses TLS. Remove host, sentinel, cluster and tls.enabled" -}}
{{- end -}}
{{- if and $url .Values.global.networkPolicy.enabled (not .Values.global.networkPolicy.redisPorts) -}}
{{- fail "global.networkPolicy.redisPorts: the network policies cannot read the port from the URL in global.redis.urlSecret and would block it. List the port, for example [6380]" -}}
{{- end -}}
{{- if and $cluster (or $redis.host $nodes $redis.sentinel.master) -}}
{{- fail "global.redis.cluster.nodes: services find a Redis Cluster by these nodes. Remove host and sentinel" -}}
{{- end -}}
{{- if and $cluster (int $redis.database) -}}
{{- fail (printf "global.redis.database: a Redis Cluster has only database 0, not %d" (int $redis.database)) -}}
{{- end -}}
{{- if and $redis.host $nodes -}}
{{- fail "global.redis.host: the sentinels know the address. Set host or sentinel.nodes, not both" -}}
{{- end -}}
{{- if and $nodes (not $redis.sentinel.master) -}}
{{- fail "global.redis.sentinel.master: set the name of the master, as sentinel.nodes is set" -}}
{{- end -}}
{{- if and $redis.sentinel.master (not $nodes) -}}
{{- fail "global.redis.sentinel.nodes: set the addresses of the sentinels, as sentinel.master is set" -}}
{{- end -}}
{{- if and $redis.tls.enabled (not $redis.host) (not $nodes) (not $cluster) -}}
{{- fail "global.redis.tls.enabled: the stack's own Redis has no TLS. Set global.redis.host to one that has" -}}
{{- end -}}
{{- end }}

{{- /* Return "true" if the stack uses its own Redis. */ -}}
{{- define "antiphon-lib.own-redis" -}}
{{- $redis := .Values.global.redis -}}
{{- if not (or $redis.host $redis.sentinel.nodes $redis.cluster.nodes $redis.urlSecret.name) }}true{{ end -}}
{{- end }}

{{- define "antiphon-lib.redis-name" -}}
{{ include "antiphon-lib.checked-name" (list . (printf "%s-redis" (include "antiphon-lib.owner" .))) }}
{{- end }}

{{- /* Return the name of the Secret with the password; "" = none. */ -}}
{{- define "antiphon-lib.redis-secret" -}}
{{- $own := include "antiphon-lib.own-redis" . | empty | ternary "" (printf "%s-auth" (include "antiphon-lib.redis-name" .)) -}}
{{ .Values.global.redis.passwordSecret.name | default $own }}
{{- end }}

{{- /* Environment entries. The password has its own variable, so that it can hold any characters. */ -}}
{{- define "antiphon-lib.redis-env" -}}
{{- include "antiphon-lib.check-redis" . -}}
{{- $redis := .Values.global.redis -}}
- name: ANTIPHON_REDIS_URL
{{- if $redis.urlSecret.name }}
  valueFrom:
    secretKeyRef: {name: {{ $redis.urlSecret.name }}, key: {{ $redis.urlSecret.key }}}
{{- else }}
  value: {{ include "antiphon-lib.redis-url" . | quote }}
{{- end }}
{{- with $redis.username }}
- {name: ANTIPHON_REDIS_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- with include "antiphon-lib.redis-secret" . }}
- name: ANTIPHON_REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $redis.passwordSecret.key }}}
{{- end }}
{{- end }}

{{- /* Return "true" if the service of this chart uses Redis: by its settings.py. */ -}}
{{- define "antiphon-lib.uses-redis" -}}
{{- if has .Chart.Name (include "antiphon-lib.redis-users" . | fromJsonArray) }}true{{ end -}}
{{- end }}

{{- define "antiphon-lib.service-redis-env" -}}
{{- if include "antiphon-lib.uses-redis" . }}{{ include "antiphon-lib.redis-env" . }}{{ end -}}
{{- end }}

{{- define "antiphon-lib.mounted-redis-ca" -}}
{{- if include "antiphon-lib.uses-redis" . }}{{ include "antiphon-lib.redis-ca" . }}{{ end -}}
{{- end }}

{{- define "antiphon-lib.redis-url" -}}
{{- $redis := .Values.global.redis -}}
{{- $scheme := $redis.tls.enabled | ternary "rediss" "redis" -}}
{{- $place := "" -}}
{{- if $redis.sentinel.nodes -}}
{{- $scheme = printf "%s+sentinel" $scheme -}}
{{- $place = printf "%s/%s/%d" (join "," $redis.sentinel.nodes) $redis.sentinel.master (int $redis.database) -}}
{{- else if $redis.cluster.nodes -}}
{{- $scheme = printf "%s+cluster" $scheme -}}
{{- $place = join "," $redis.cluster.nodes -}}
{{- else -}}
{{- $place = printf "%s:%d/%d" ($redis.host | default (include "antiphon-lib.redis-name" .)) (int $redis.port) (int $redis.database) -}}
{{- end -}}
{{- $ca := include "antiphon-lib.redis-ca" . | empty | ternary "" (printf "?ssl_ca_certs=/redis-tls/%s" $redis.tls.caSecret.key) -}}
{{ printf "%s://%s%s" $scheme $place $ca }}
{{- end }}

{{- /* Return the name of the Secret with the certificate authority, which is mounted at /redis-tls; "" = none. */ -}}
{{- define "antiphon-lib.redis-ca" -}}
{{- $redis := .Values.global.redis -}}
{{- if or $redis.tls.enabled $redis.urlSecret.name }}{{ $redis.tls.caSecret.name }}{{ end -}}
{{- end }}
