{{- define "r3.labels" -}}
app.kubernetes.io/name: r3
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .worker }}
worker: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of a document: those that select, and those that tell. */}}
{{- define "r3.allLabels" -}}
{{ include "r3.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "r3.image" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{/* What every pod says of itself. */}}
{{- define "r3.pod" -}}
automountServiceAccountToken: false
# A Service's variables have the same form as ours (R3_API_PORT=tcp://...), and would be taken for settings.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "r3.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Where settings come from, in API and workers alike. */}}
{{- define "r3.envFrom" -}}
envFrom:
  - configMapRef: {name: {{ .Release.Name }}-settings}
  {{- if eq .Values.pictures.kind "s3" }}
  - secretRef: {name: {{ .Values.pictures.secret }}, optional: true}
  {{- end }}
  {{- with .Values.secretSettings }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
{{- end }}

{{/* Files of the operator's, where they are mounted and what they are; weights on a claim are for workers alone. */}}
{{- define "r3.fileMounts" -}}
{{- range $at, $file := .files }}
{{- if or $.claims (not $file.claim) }}
- {name: files-{{ $at }}, mountPath: {{ $file.path | quote }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "r3.fileVolumes" -}}
{{- range $at, $file := .files }}
{{- if or $.claims (not $file.claim) }}
- name: files-{{ $at }}
  {{- if $file.secret }}
  secret: {secretName: {{ $file.secret | quote }}}
  {{- else if $file.configMap }}
  configMap: {name: {{ $file.configMap | quote }}}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ $file.claim | quote }}, readOnly: true}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "r3.redisUrl" -}}
- name: R3_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.secret }}, key: url}
{{- end }}

{{/* Which pods are API or worker of this release. */}}
{{- define "r3.ours" -}}
matchLabels:
  app.kubernetes.io/name: r3
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [api, worker]}
{{- end }}

{{/* MiB that a worker's GPU must have. */}}
{{- define "r3.gpuMemory" -}}
{{ hasKey . "gpuMemoryMiB" | ternary .gpuMemoryMiB 39000 | int }}
{{- end }}

{{/* Nodes that a worker may run on. */}}
{{- define "r3.gpuNodes" -}}
nodeSelector: {nvidia.com/gpu.present: "true"}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: nvidia.com/gpu.memory, operator: Gt, values: [{{ include "r3.gpuMemory" . | quote }}]}
tolerations:
  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
{{- end }}

{{/* The world, but no neighbour. */}}
{{- define "r3.world" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
  ports:
    - {port: 443, protocol: TCP}
{{- end }}
