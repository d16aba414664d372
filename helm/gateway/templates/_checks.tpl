{{- /* The spool of usage records must fit into the emptyDir beside the tenants' cache: a pod that exceeds it is evicted. */ -}}
{{- define "gateway.check-spool" -}}
{{- $cache := mul (regexFind "[0-9]+" .Values.cacheSize | int64) (hasSuffix "Gi" .Values.cacheSize | ternary 1073741824 1048576) -}}
{{- $spool := int64 (.Values.settings.usage_spool_bytes | default 67108864) -}}
{{- if gt (mul 2 $spool) $cache -}}
{{- fail (printf "gateway.cacheSize: %s has no room for the spool of usage records, %d bytes, and as much beside it. Raise cacheSize, lower gateway.settings.usage_spool_bytes, or name a folder of a volume in gateway.settings.usage_spool_dir" .Values.cacheSize $spool) -}}
{{- end -}}
{{- end }}

{{- define "gateway.check-webrtc" -}}
{{- with .Values.webrtc -}}
{{- if and (or .hostPort .addresses .stunServer .turn.server) (not .enabled) -}}
{{- fail "gateway.webrtc.enabled: set it, as webrtc.hostPort, webrtc.addresses, webrtc.stunServer or webrtc.turn.server is set" -}}
{{- end -}}
{{- if ne (empty .turn.server) (empty .turn.secret.name) -}}
{{- fail "gateway.webrtc.turn.secret.name: it and webrtc.turn.server want each other" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "gateway.check-store" -}}
{{- $store := .Values.objectStore -}}
{{- if and $store.url $store.claim -}}
{{- fail "gateway.objectStore.claim: it contradicts objectStore.url. Set one of them" -}}
{{- end -}}
{{- if and (or $store.url $store.claim) (not .Values.control.address) -}}
{{- fail "gateway.objectStore.url: files and batches need a control plane. Set control.enabled=true or gateway.control.address" -}}
{{- end -}}
{{- if and (or $store.endpoint $store.secret.name) (not $store.url) -}}
{{- fail "gateway.objectStore.url: set it, as objectStore.endpoint or objectStore.secret.name is set" -}}
{{- end -}}
{{- end }}

{{- define "gateway.check-control" -}}
{{- $key := .Values.apiKey -}}{{- $control := .Values.control -}}
{{- if $control.address -}}
{{- if $key.allowAnonymous -}}
{{- fail "gateway.apiKey.allowAnonymous: true contradicts the keys of the control plane (control.enabled, gateway.control.address). Remove one" -}}
{{- end -}}
{{- if or $key.tenantsSecret.name .Values.settings.tenants_file -}}
{{- fail "gateway.apiKey.tenantsSecret.name: tenants come from the control plane (control.enabled, gateway.control.address). Remove one" -}}
{{- end -}}
{{- if not $control.tokenSecret.name -}}
{{- fail "gateway.control.tokenSecret.name: name a Secret with the control plane's gateway token, as control.address is set" -}}
{{- end -}}
{{- else if or $control.tokenSecret.name $control.cacheClaim -}}
{{- fail "gateway.control.address: set the control plane's address, as control.tokenSecret or cacheClaim is set, or set control.enabled=true" -}}
{{- end -}}
{{- end }}
