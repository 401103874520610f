{{- define "lorecall.name" -}}
{{- $long := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- ternary .Release.Name $long (contains .Chart.Name .Release.Name) | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "lorecall.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lorecall.labels" -}}
{{ include "lorecall.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lorecall.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "lorecall.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "lorecall.image" -}}
{{ .Values.image.repository }}:{{ default (printf "%s-%s" .Chart.AppVersion .Values.profile) .Values.image.tag }}
{{- end }}

{{- define "lorecall.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "lorecall.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* The registry's URL holds a password: it comes from a Secret, never from a value. */ -}}
{{- define "lorecall.registryEnv" -}}
- name: LORECALL_REGISTRY
  valueFrom:
    secretKeyRef: {name: {{ .Values.registry.secret | quote }}, key: url}
{{- end }}

{{- /* The address of Redis holds a password, too. */ -}}
{{- define "lorecall.limitsEnv" -}}
- {name: LORECALL_MAX_ITEMS, value: {{ .Values.limits.items | int | quote }}}
- {name: LORECALL_AUDIT_MAX_SNIPPETS, value: {{ .Values.limits.auditSnippets | int | quote }}}
{{- with .Values.limits.secret }}
- name: LORECALL_LIMITS_URL
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: url}
{{- end }}
{{- end }}

{{- define "lorecall.keyEnv" -}}
valueFrom:
  secretKeyRef: {name: {{ .Values.server.apiKeySecret | quote }}, key: api-key}
{{- end }}

{{- define "lorecall.mounts" -}}
- {name: data, mountPath: /data}
- {name: scratch, mountPath: /tmp}
{{- end }}
