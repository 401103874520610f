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

{{- /* Names in camel case become those of docs/settings.md; what is no string is JSON, as the server reads it. */ -}}
{{- define "lorecall.settingsEnv" -}}
{{- range $name, $value := . }}
- name: LORECALL_{{ regexReplaceAll "([A-Z])" $name "_${1}" | upper }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{- define "lorecall.filesEnv" -}}
{{- if .Values.server.apiKeysFileSecret }}
- {name: LORECALL_API_KEYS_FILE, value: /etc/lorecall/keys/keys.yaml}
{{- end }}
{{- if .Values.signing.secret }}
- {name: LORECALL_SIGNING_KEY, value: /etc/lorecall/signing/private.pem}
{{- end }}
{{- end }}

{{- define "lorecall.gateEnv" -}}
{{- if .Values.gate.secret }}
- {name: LORECALL_REQUIRE_AUDIT, value: /etc/lorecall/gate/policy.yaml}
- {name: LORECALL_AUDIT_CANDIDATES, value: /etc/lorecall/gate/candidates.jsonl}
{{- if .Values.gate.controls }}
- {name: LORECALL_AUDIT_CONTROLS, value: /etc/lorecall/gate/controls.jsonl}
{{- end }}
- {name: LORECALL_REAUDIT_STALE, value: {{ .Values.gate.reauditStale | quote }}}
{{- end }}
{{- end }}

{{- /* Secrets whose keys are files below /etc/lorecall, by folder: all of them, and those of the audit service. */ -}}
{{- define "lorecall.auditSecrets" -}}
keys: {{ .Values.server.apiKeysFileSecret | quote }}
signing: {{ .Values.signing.secret | quote }}
{{- end }}

{{- define "lorecall.serverSecrets" -}}
{{ include "lorecall.auditSecrets" . }}
gate: {{ .Values.gate.secret | quote }}
{{- end }}

{{- define "lorecall.secretMounts" -}}
{{- range $folder, $secret := . }}
{{- if $secret }}
- {name: {{ $folder }}, mountPath: /etc/lorecall/{{ $folder }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "lorecall.secretVolumes" -}}
{{- range $folder, $secret := . }}
{{- if $secret }}
- name: {{ $folder }}
  secret: {secretName: {{ $secret | quote }}, defaultMode: 0440}
{{- end }}
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

{{- /* "true" for several servers on one registry. */ -}}
{{- define "lorecall.fleet" -}}
{{- if or (gt (int .Values.server.replicas) 1) .Values.autoscaling.enabled }}true{{ end }}
{{- end }}

{{- define "lorecall.resources" -}}
{{- $own := deepCopy (index .Values.resources .Values.profile) }}
{{- if eq .Values.profile "gpu" }}
{{- /* A string: an older API server applies no number. */}}
{{- $gpus := int .Values.server.gpus | toString }}
{{- $own = merge (dict "requests" (dict "nvidia.com/gpu" $gpus) "limits" (dict "nvidia.com/gpu" $gpus)) $own }}
{{- end }}
{{- toYaml $own }}
{{- end }}

{{- define "lorecall.hubEnv" -}}
{{- with .Values.server.hubTokenSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: token}
{{- end }}
{{- end }}

{{- define "lorecall.baseEnv" -}}
- {name: HOME, value: /tmp}
- {name: HF_HOME, value: /data/hub}
- {name: XDG_CACHE_HOME, value: /data/cache}
- {name: TRITON_HOME, value: /data/cache}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /data/cache/inductor}
{{- include "lorecall.hubEnv" . }}
{{- end }}

{{- define "lorecall.serverEnv" -}}
{{ include "lorecall.baseEnv" . }}
- {name: LORECALL_STORE, value: /data/adapters}
- {name: LORECALL_OPEN_METRICS, value: "true"}
- name: LORECALL_ADMIN_KEY
  {{- include "lorecall.keyEnv" . | nindent 2 }}
{{ include "lorecall.limitsEnv" . }}
{{- if .Values.registry.secret }}{{ include "lorecall.registryEnv" . | nindent 0 }}{{ end }}
{{- include "lorecall.settingsEnv" .Values.settings }}
{{- include "lorecall.filesEnv" . }}
{{- include "lorecall.gateEnv" . }}
{{- end }}

{{- define "lorecall.auditEnv" -}}
- {name: HOME, value: /tmp}
- {name: LORECALL_AUDIT_SPOOL, value: /data/texts}
- {name: LORECALL_OPEN_METRICS, value: "true"}
- name: LORECALL_ADMIN_KEY
  {{- include "lorecall.keyEnv" . | nindent 2 }}
- name: LORECALL_API_KEY  # with which it asks the server
  {{- include "lorecall.keyEnv" . | nindent 2 }}
{{ include "lorecall.limitsEnv" . }}
{{ include "lorecall.registryEnv" . }}
{{- /* Local roots are folders of the server's pod. */ -}}
{{- include "lorecall.settingsEnv" (omit .Values.settings "localRoots") }}
{{- include "lorecall.filesEnv" . }}
{{- end }}

{{- /* A container's environment: the chart's, and extraEnv. A cluster refuses a value that is no string, and a name twice. */ -}}
{{- define "lorecall.env" -}}
{{- $own := first . }}
{{- $seen := dict }}
{{- range concat (fromYamlArray $own) (last .) }}
{{- if and (hasKey . "value") (not (kindIs "string" .value)) }}{{ fail (printf "extraEnv: the value of %s is no string: quote it" .name) }}{{ end }}
{{- if hasKey $seen .name }}{{ fail (printf "extraEnv: %s is there twice, or is the chart's own: leave one out, or use settings" .name) }}{{ end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- $own }}
{{- with last . }}{{ toYaml . | nindent 0 }}{{ end }}
{{- end }}

{{- define "lorecall.volume" -}}
accessModes: {{- toYaml .Values.persistence.accessModes | nindent 2 }}
{{- with .Values.persistence.storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests: {storage: {{ .Values.persistence.size }}}
{{- end }}
