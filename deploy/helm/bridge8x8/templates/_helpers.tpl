{{- define "bridge8x8.name" -}}
{{- if contains "bridge8x8" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-bridge8x8" (.Release.Name | trunc 42 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "bridge8x8.selector" -}}
app.kubernetes.io/name: bridge8x8
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bridge8x8.labels" -}}
{{ include "bridge8x8.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "bridge8x8.meta" -}}
metadata:
  name: {{ include "bridge8x8.name" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "bridge8x8.labels" . | nindent 4 }}
{{- end -}}

{{- define "bridge8x8.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "bridge8x8.configMap" -}}
{{ .Values.existingConfigMap | default (include "bridge8x8.name" .) }}
{{- end -}}

{{/* What would be unsafe, or would fail in the pod only. */}}
{{- define "bridge8x8.check" -}}
{{- $keys := .Values.secrets.keys -}}
{{- if and (not .Values.secrets.name) (not .Values.secrets.volume) -}}
{{- fail "secrets.name is empty: name an existing Secret, or give secrets.volume" -}}
{{- end -}}
{{- if and (eq .Values.mode "service") .Values.http.enabled -}}
{{- if not (get $keys "BRIDGE_HTTP_TOKEN") -}}
{{- fail "secrets.keys.BRIDGE_HTTP_TOKEN is missing: POST /events would be open to everybody; give it, or set http.enabled=false" -}}
{{- end -}}
{{- if not (or (get $keys "BRIDGE_WEBHOOK_SECRET") (get $keys "BRIDGE_WEBHOOK_AUTHORIZATION")) -}}
{{- fail "secrets.keys has neither BRIDGE_WEBHOOK_SECRET nor BRIDGE_WEBHOOK_AUTHORIZATION: POST /webhooks/8x8 would be open to everybody; give one, or set http.enabled=false" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor.enabled needs metrics.enabled=true: the admin listener is on loopback" -}}
{{- end -}}
{{- if and (eq .Values.mode "sidecar") .Values.metrics.enabled -}}
{{- fail "metrics.enabled is for mode service: a sidecar listens on loopback only" -}}
{{- end -}}
{{- range $name, $value := .Values.env -}}
{{- if or (hasKey $keys $name) (has $name (list "BRIDGE_NAME" "BRIDGE_CONFIG" "BRIDGE_HTTP_ADDR" "BRIDGE_ADMIN_ADDR" "BRIDGE_GRACE" "BRIDGE_REPLICAS" "BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED" "NATS_URL" "MEMBRANE_API_URL" "MEMBRANE_CONNECTION")) -}}
{{- fail (printf "env.%s is set by another value of this chart" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The container, but for what only a sidecar or only a service has. */}}
{{- define "bridge8x8.container" -}}
{{- $service := eq .Values.mode "service" -}}
name: bridge8x8
image: {{ include "bridge8x8.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  - {name: BRIDGE_NAME, value: {{ .Values.bridgeName | quote }}}
  - {name: BRIDGE_CONFIG, value: /etc/bridge8x8/bridge.yaml}
  {{- if not .Values.http.enabled }}
  - {name: BRIDGE_HTTP_ADDR, value: ""}
  {{- else if $service }}
  - {name: BRIDGE_HTTP_ADDR, value: ":{{ .Values.http.port }}"}
  {{- else }}
  - {name: BRIDGE_HTTP_ADDR, value: "127.0.0.1:{{ .Values.http.port }}"}
  {{- end }}
  {{- if and $service .Values.metrics.enabled }}
  - {name: BRIDGE_ADMIN_ADDR, value: ":{{ .Values.metrics.port }}"}
  - {name: BRIDGE_ADMIN_ALLOW_UNAUTHENTICATED, value: "true"}
  {{- else }}
  - {name: BRIDGE_ADMIN_ADDR, value: "127.0.0.1:{{ .Values.metrics.port }}"}
  {{- end }}
  - {name: BRIDGE_GRACE, value: {{ .Values.graceSeconds }}s}
  - {name: BRIDGE_REPLICAS, value: {{ .Values.nats.replicas | quote }}}
  - {name: NATS_URL, value: {{ .Values.nats.url | quote }}}
  - {name: MEMBRANE_API_URL, value: {{ .Values.membrane.apiURL | quote }}}
  {{- with .Values.membrane.connection }}
  - {name: MEMBRANE_CONNECTION, value: {{ . | quote }}}
  {{- end }}
  {{- range $name, $key := .Values.secrets.keys }}
  {{- if $key }}
  {{- if has $name (list "NATS_CREDS" "NATS_NKEY" "NATS_TLS_CA" "NATS_TLS_CERT" "NATS_TLS_KEY") }}
  - {name: {{ $name }}, value: /run/secrets/bridge8x8/{{ $key }}}
  {{- else }}
  - {name: {{ $name }}_FILE, value: /run/secrets/bridge8x8/{{ $key }}}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- range $name, $value := .Values.env }}
  - {name: {{ $name }}, value: {{ $value | toString | quote }}}
  {{- end }}
{{- if $service }}
ports:
  {{- if .Values.http.enabled }}
  - {name: http, containerPort: {{ .Values.http.port }}}
  {{- end }}
  {{- if .Values.metrics.enabled }}
  - {name: metrics, containerPort: {{ .Values.metrics.port }}}
  {{- end }}
{{- end }}
{{- if .Values.preStopSeconds }}
lifecycle:
  preStop:
    sleep: {seconds: {{ .Values.preStopSeconds }}}
{{- end }}
# The program asks itself: the admin listener is on loopback, where no kubelet comes.
startupProbe:
  exec: {command: [/bridge8x8, health, --live]}
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: 60
readinessProbe:
  exec: {command: [/bridge8x8, health]}
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  exec: {command: [/bridge8x8, health, --live]}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 6
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - {name: bridge8x8-config, mountPath: /etc/bridge8x8, readOnly: true} # whole: a subPath would never change
  - {name: bridge8x8-secrets, mountPath: /run/secrets/bridge8x8, readOnly: true}
{{- end -}}

{{- define "bridge8x8.volumes" -}}
- name: bridge8x8-config
  configMap: {name: {{ include "bridge8x8.configMap" . }}}
- name: bridge8x8-secrets
  {{- if .Values.secrets.volume }}
  {{- toYaml .Values.secrets.volume | nindent 2 }}
  {{- else }}
  secret: {secretName: {{ .Values.secrets.name }}, defaultMode: 0440}
  {{- end }}
{{- end -}}
