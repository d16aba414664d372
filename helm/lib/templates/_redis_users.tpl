{{- /* Generated from the services' settings.py by `make generated`: do not edit. */ -}}
{{- define "antiphon-lib.redis-users" -}}
["gateway", "preprocess", "thinker", "talker", "scaler", "control"]
{{- end }}
