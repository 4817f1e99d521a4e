{{/*
For the chart of an application that has this one as a dependency, with
bridge8x8.mode=sidecar. In its pod's spec:

  initContainers:
    {{- include "bridge8x8.sidecar" .Subcharts.bridge8x8 | nindent 4 }}
  volumes:
    {{- include "bridge8x8.sidecar.volumes" .Subcharts.bridge8x8 | nindent 4 }}
  securityContext: {fsGroup: 65532} # the secrets' files are read by that group
  terminationGracePeriodSeconds: the application's own + graceSeconds + 5

It is a native sidecar: it starts before the application, which starts once it
lives and finds it ready or not by its own readiness, and it ends after it, so
that the application's last events are taken.
*/}}
{{- define "bridge8x8.sidecar" -}}
{{- if ne .Values.mode "sidecar" -}}
{{- fail "bridge8x8.mode must be sidecar where the bridge is put into another pod" -}}
{{- end -}}
{{- include "bridge8x8.check" . -}}
- {{ include "bridge8x8.container" . | nindent 2 | trim }}
  restartPolicy: Always
{{- end -}}

{{- define "bridge8x8.sidecar.volumes" -}}
{{ include "bridge8x8.volumes" . }}
{{- end -}}
