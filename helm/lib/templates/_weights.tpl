{{- /* The volume of the weights and the job that fills it. */ -}}

{{- define "antiphon-lib.weights-name" -}}
{{ .Release.Name }}-weights
{{- end }}

{{- define "antiphon-lib.weights-claim" -}}
{{ .Values.global.weights.existingClaim | default (include "antiphon-lib.weights-name" .) }}
{{- end }}

{{- /* The file that marks a folder as complete and checked, for one revision. */ -}}
{{- define "antiphon-lib.weights-mark" -}}
.antiphon-{{ include "antiphon-lib.weights-revision" . | replace "/" "-" }}
{{- end }}

{{- define "antiphon-lib.weights-revision" -}}
{{- $download := .Values.global.weights.download -}}
{{ $download.revision | default (eq $download.source "modelscope" | ternary "master" "main") }}
{{- end }}

{{- define "antiphon-lib.wait-for-weights" -}}
image: {{ include "antiphon-lib.image" . | quote }}
imagePullPolicy: {{ .Values.global.image.pullPolicy }}
command: [sh, -c, 'until [ -e "$MARK" ]; do echo "waiting for $MARK"; sleep 5; done']
env:
  - {name: MARK, value: {{ printf "/models/%s/%s" (include "antiphon-lib.model-folder" .) (include "antiphon-lib.weights-mark" .) | quote }}}
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 32Mi}
{{- with include "antiphon-lib.container-security" (list . .Values) }}
{{ . }}
{{- end }}
volumeMounts:
  - {name: weights, mountPath: /models, readOnly: true}
{{- end }}

{{- /* Every step can run again: a download resumes, and a folder with the mark is left alone. */ -}}
{{- define "antiphon-lib.download-script" -}}
set -eu
if [ -e "$TARGET/$MARK" ]; then echo "$TARGET is there"; exit 0; fi
mkdir -p "$TARGET"
{{- $download := .Values.global.weights.download }}
{{- $sums := `if [ -s /checksums/SHA256SUMS ]; then cd "$TARGET" && sha256sum --check --strict /checksums/SHA256SUMS; fi` }}
{{- if $download.command }}
{{ $download.command }}
{{ $sums }}
{{- else if eq $download.source "modelscope" }}
python -m services.weights "$REPOSITORY" --revision "$REVISION" --target "$TARGET" --endpoint "$ENDPOINT" --checksums /checksums/SHA256SUMS
{{- else }}
hf download "$REPOSITORY" --revision "$REVISION" --local-dir "$TARGET"
hf cache verify "$REPOSITORY" --revision "$REVISION" --local-dir "$TARGET" --fail-on-missing-files
{{ $sums }}
{{- end }}
touch "$TARGET/$MARK"
{{- end }}

{{- define "antiphon-lib.weights-job" -}}
{{- $download := .Values.global.weights.download -}}
{{- $name := include "antiphon-lib.weights-name" . -}}
{{- $labels := include "antiphon-lib.weights-labels" . -}}
{{- $image := include "antiphon-lib.image-of" (list . "preprocess") -}}
backoffLimit: 20
activeDeadlineSeconds: {{ int $download.timeout_s }}
template:
  metadata:
    labels:
      {{- $labels | nindent 6 }}
    annotations:
      {{- include "antiphon-lib.checksum" (list $name (include "antiphon-lib.weights-data" . | fromYaml)) | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    automountServiceAccountToken: false
    enableServiceLinks: false
    {{- include "antiphon-lib.pod-security" (list . dict) | nindent 4 }}
    {{- include "antiphon-lib.pull-secrets" . | nindent 4 }}
    {{- range $key := list "nodeSelector" "tolerations" "schedulerName" "priorityClassName" }}
    {{- with get $download $key }}
    {{ $key }}: {{ kindIs "string" . | ternary (quote .) (toYaml . | nindent 6) }}
    {{- end }}
    {{- end }}
    containers:
      - name: download
        image: {{ $download.image | default $image | quote }}
        imagePullPolicy: {{ .Values.global.image.pullPolicy }}
        command: [sh, -c, {{ include "antiphon-lib.download-script" . | toJson }}]
        env:
          - {name: REPOSITORY, value: {{ include "antiphon-lib.model-repository" . | quote }}}
          - {name: REVISION, value: {{ include "antiphon-lib.weights-revision" . | quote }}}
          - {name: TARGET, value: {{ printf "/models/%s" (include "antiphon-lib.model-folder" .) | quote }}}
          - {name: MARK, value: {{ include "antiphon-lib.weights-mark" . | quote }}}
          - {name: HOME, value: /tmp}
          {{- $modelscope := eq $download.source "modelscope" }}
          {{- if $modelscope }}
          - {name: ENDPOINT, value: {{ $download.endpoint | quote }}}
          {{- else if $download.endpoint }}
          - {name: HF_ENDPOINT, value: {{ $download.endpoint | quote }}}
          {{- end }}
          {{- if $download.tokenSecret.name }}
          - name: {{ $modelscope | ternary "WEIGHTS_TOKEN" "HF_TOKEN" }}
            valueFrom:
              secretKeyRef: {name: {{ $download.tokenSecret.name }}, key: {{ $download.tokenSecret.key }}}
          {{- end }}
          {{- with $download.env }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        resources:
          requests: {cpu: {{ $download.resources.cpu | quote }}, memory: {{ $download.resources.memory }}}
          limits: {memory: {{ $download.resources.memory }}}
        {{- include "antiphon-lib.container-security" (list . dict) | nindent 8 }}
        volumeMounts:
          - {name: weights, mountPath: /models}
          - {name: tmp, mountPath: /tmp}
          - {name: checksums, mountPath: /checksums, readOnly: true}
    volumes:
      - name: weights
        persistentVolumeClaim: {claimName: {{ $name }}}
      - {name: tmp, emptyDir: {}}
      - name: checksums
        configMap: {name: {{ $name }}}
{{- end }}

{{- define "antiphon-lib.weights-data" -}}
SHA256SUMS: {{ .Values.global.weights.download.checksums | quote }}
{{- end }}

{{- define "antiphon-lib.weights" -}}
{{- include "antiphon-lib.check-present" . -}}
{{- if not .Values.global.weights.existingClaim -}}
{{- include "antiphon-lib.check-weights" . -}}
{{- $weights := .Values.global.weights -}}
{{- $name := include "antiphon-lib.weights-name" . -}}
{{- $labels := include "antiphon-lib.weights-labels" . -}}
{{- $job := include "antiphon-lib.weights-job" . -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    # Weights outlive an uninstall.
    helm.sh/resource-policy: keep
spec:
  accessModes: {{ $weights.claim.accessModes | toJson }}
  {{- with $weights.claim.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ $weights.claim.size }}}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
data:
  {{- include "antiphon-lib.weights-data" . | nindent 2 }}
---
apiVersion: batch/v1
kind: Job
metadata:
  # Kubernetes refuses to change the pod template of a job, so a changed template gets a new job.
  name: {{ include "antiphon-lib.checked-name" (list . (printf "%s-%s" $name ($job | sha256sum | trunc 8))) }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
spec:
  {{- $job | nindent 2 }}
{{- if .Values.global.networkPolicy.enabled }}
---
{{ include "antiphon-lib.policy" (list . "weights" (printf "name: %s\nnamespace: %s\nlabels:\n  %s" $name .Release.Namespace ($labels | nindent 2 | trim)) $labels) }}
{{- end }}
{{- end -}}
{{- end }}

{{- define "antiphon-lib.weights-labels" -}}
app.kubernetes.io/name: weights
app.kubernetes.io/instance: {{ .Release.Name }}
{{ include "antiphon-lib.peer-labels" (list . "weights") }}
{{- end }}

{{- /* A worker's chart that is installed alone brings the volume, unless the values name one. */ -}}
{{- define "antiphon-lib.weights-alone" -}}
{{- if .Chart.IsRoot }}{{ include "antiphon-lib.weights" . }}{{ end -}}
{{- end }}
