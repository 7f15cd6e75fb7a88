{{- /* Which image, from how many, by which labels: said once. */ -}}
{{- define "weir.tag" -}}{{ .Values.images.tag | default .Chart.AppVersion }}{{- end -}}

{{- define "weir.labels" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/part-of: weir
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ include "weir.tag" .root | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{- define "weir.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "weir.labels" . | nindent 2 }}
{{- end -}}

{{- define "weir.clusterMetadata" -}}
name: {{ .name }}
labels:
  {{- include "weir.labels" . | nindent 2 }}
{{- end -}}

{{- /* How many of a component: what is said, else what highAvailability wants. */ -}}
{{- define "weir.replicas" -}}
{{- if .said }}{{ .said }}{{ else if .root.Values.highAvailability }}{{ .many }}{{ else }}1{{ end -}}
{{- end -}}

{{- define "weir.busReplicas" -}}{{ if .Values.highAvailability }}3{{ else }}1{{ end }}{{- end -}}
{{- define "weir.aggregatorReplicas" -}}{{ include "weir.replicas" (dict "root" . "said" .Values.aggregator.replicas "many" 3) }}{{- end -}}
{{- define "weir.controllerReplicas" -}}{{ include "weir.replicas" (dict "root" . "said" .Values.controller.replicas "many" 2) }}{{- end -}}
{{- define "weir.apiReplicas" -}}{{ include "weir.replicas" (dict "root" . "said" .Values.api.replicas "many" 2) }}{{- end -}}

{{- define "weir.resources" -}}
{{- $requests := dict }}{{ $limits := dict }}
{{- if .cpu.request }}{{ $_ := set $requests "cpu" (toString .cpu.request) }}{{ end }}
{{- if .memory.request }}{{ $_ := set $requests "memory" (toString .memory.request) }}{{ end }}
{{- if .cpu.limit }}{{ $_ := set $limits "cpu" (toString .cpu.limit) }}{{ end }}
{{- if .memory.limit }}{{ $_ := set $limits "memory" (toString .memory.limit) }}{{ end }}
{{- dict "requests" $requests "limits" $limits | toYaml }}
{{- end -}}

{{- /* What all of the components' pods have. */ -}}
{{- define "weir.pod" -}}
{{- $values := .root.Values -}}
serviceAccountName: weir-{{ .component }}
automountServiceAccountToken: {{ .kubernetes }}
{{- with $values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- if $values.scheduling.priority }}
priorityClassName: weir-control-plane
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
  {{- with $values.scheduling.nodeSelector }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with $values.scheduling.tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "weir.selector" .component | nindent 6 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- /* What all of their containers have. */ -}}
{{- define "weir.container" -}}
name: {{ .component }}
image: {{ .root.Values.images.registry }}/weir:{{ include "weir.tag" .root }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
resources:
  {{- include "weir.resources" .resources | nindent 2 }}
{{- end -}}

{{- define "weir.probes" -}}
startupProbe:
  httpGet: {path: /live, port: {{ . }}}
  periodSeconds: 1
  failureThreshold: 300
livenessProbe:
  httpGet: {path: /live, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /ready, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- /* How a component reaches the bus. */ -}}
{{- define "weir.busArgs" -}}
- --bus=nats://weir-bus.{{ .Release.Namespace }}.svc:4222
- --bus-token-file=/var/run/weir/token/token
- --bus-anchors-file=/var/run/weir/anchors/ca.crt
{{- end -}}

{{- define "weir.busMounts" -}}
- {name: token, mountPath: /var/run/weir/token, readOnly: true}
- {name: anchors, mountPath: /var/run/weir/anchors, readOnly: true}
{{- end -}}

{{- define "weir.busVolumes" -}}
- name: token
  projected:
    defaultMode: 288
    sources:
    - serviceAccountToken: {audience: weir, expirationSeconds: 3600, path: token}
- name: anchors
  configMap: {name: weir-trust-anchors}
{{- end -}}

{{- /* Made once: what the cluster has, else what was given, else new ones. */ -}}
{{- define "weir.authority" -}}
{{- $issuer := lookup "v1" "Secret" .Release.Namespace "weir-identity-issuer" -}}
{{- $anchors := lookup "v1" "ConfigMap" .Release.Namespace "weir-trust-anchors" -}}
{{- if .Values.issuer.certificate -}}
certificate: {{ .Values.issuer.certificate | b64enc }}
key: {{ .Values.issuer.key | b64enc }}
anchors: {{ .Values.issuer.trustAnchors | b64enc }}
{{- else if and $issuer $anchors -}}
certificate: {{ index $issuer.data "tls.crt" }}
key: {{ index $issuer.data "tls.key" }}
anchors: {{ index $anchors.data "ca.crt" | b64enc }}
{{- else -}}
{{- $ca := genCAWithKey (printf "identity.weir.%s" .Values.trustDomain) 3650 (genPrivateKey "ecdsa") -}}
certificate: {{ $ca.Cert | b64enc }}
key: {{ $ca.Key | b64enc }}
anchors: {{ $ca.Cert | b64enc }}
{{- end -}}
{{- end -}}

{{- /* What makes pods start anew when it changes. */ -}}
{{- define "weir.checksum" -}}
{{- omit .Values "issuer" | toJson | sha256sum -}}
{{- end -}}
