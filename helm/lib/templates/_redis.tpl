{{- /* How a service reaches Redis. */ -}}

{{- define "antiphon-lib.check-redis" -}}
{{- $redis := .Values.global.redis -}}
{{- $url := $redis.urlSecret.name -}}
{{- $nodes := $redis.sentinel.nodes -}}
{{- $cluster := $redis.cluster.nodes -}}
{{- if and $url (or $redis.host $nodes $cluster $redis.tls.enabled) -}}
{{- fail "global.redis.urlSecret: the URL says where Redis is and whether it has TLS; leave host, sentinel, cluster and tls.enabled empty" -}}
{{- end -}}
{{- if and $url .Values.global.networkPolicy.enabled (not .Values.global.networkPolicy.redisPorts) -}}
{{- fail "global.networkPolicy.redisPorts: the URL in global.redis.urlSecret does not show its port; list it, for example [6380], or the network policies block it" -}}
{{- end -}}
{{- if and $cluster (or $redis.host $nodes $redis.sentinel.master) -}}
{{- fail "global.redis.cluster.nodes: a Redis Cluster is reached by its own nodes; leave host and sentinel empty" -}}
{{- end -}}
{{- if and $cluster (int $redis.database) -}}
{{- fail (printf "global.redis.database: a Redis Cluster has database 0 alone, not %d" (int $redis.database)) -}}
{{- end -}}
{{- if and $redis.host $nodes -}}
{{- fail "global.redis.host: the sentinels know the address; set host or sentinel.nodes, not both" -}}
{{- end -}}
{{- if and $nodes (not $redis.sentinel.master) -}}
{{- fail "global.redis.sentinel.master: the name of the master is needed beside sentinel.nodes" -}}
{{- end -}}
{{- if and $redis.sentinel.master (not $nodes) -}}
{{- fail "global.redis.sentinel.nodes: the sentinels' addresses are needed beside sentinel.master" -}}
{{- end -}}
{{- if and $redis.tls.enabled (not $redis.host) (not $nodes) (not $cluster) -}}
{{- fail "global.redis.tls.enabled: the stack's own Redis has no TLS; name an external one in global.redis.host" -}}
{{- end -}}
{{- end }}

{{- /* "true" where the stack's own Redis is used. */ -}}
{{- define "antiphon-lib.own-redis" -}}
{{- $redis := .Values.global.redis -}}
{{- if not (or $redis.host $redis.sentinel.nodes $redis.cluster.nodes $redis.urlSecret.name) }}true{{ end -}}
{{- end }}

{{- define "antiphon-lib.redis-name" -}}
{{ include "antiphon-lib.checked-name" (list . (printf "%s-redis" (include "antiphon-lib.owner" .))) }}
{{- end }}

{{- /* The Secret with the password; "" = there is none. */ -}}
{{- define "antiphon-lib.redis-secret" -}}
{{- $own := include "antiphon-lib.own-redis" . | empty | ternary "" (printf "%s-auth" (include "antiphon-lib.redis-name" .)) -}}
{{ .Values.global.redis.passwordSecret.name | default $own }}
{{- end }}

{{- /* Environment entries. The password has a variable of its own, so it may hold any characters. */ -}}
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

{{- /* The Secret with the certificate authority that is mounted at /redis-tls; "" = none. */ -}}
{{- define "antiphon-lib.redis-ca" -}}
{{- $redis := .Values.global.redis -}}
{{- if or $redis.tls.enabled $redis.urlSecret.name }}{{ $redis.tls.caSecret.name }}{{ end -}}
{{- end }}
