{{- define "rbee.name" -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- end }}

{{- define "rbee.labels" -}}
app.kubernetes.io/name: rbee
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "rbee.selector" -}}
app.kubernetes.io/name: rbee
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* A list of the root, the name of an image. */ -}}
{{- define "rbee.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.images.prefix }}{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.images.tag }}
{{- end }}

{{- define "rbee.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "rbee.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "rbee.natsUrl" -}}
{{- if not .Values.nats.enabled -}}
{{ .Values.nats.url }}
{{- else if eq (int .Values.nats.replicas) 1 -}}
nats://{{ include "rbee.name" . }}-nats:4222
{{- else -}}
{{- $urls := list -}}
{{- range $i := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "nats://%s-nats-%d.%s-nats:4222" (include "rbee.name" $) $i (include "rbee.name" $)) -}}
{{- end -}}
{{ join "," $urls }}
{{- end -}}
{{- end }}

{{- define "rbee.monitoring" -}}
{{- if .Values.nats.enabled -}}
{{ include "rbee.name" . }}-nats.{{ .Release.Namespace }}.svc:8222
{{- else -}}
{{ .Values.nats.monitoring }}
{{- end -}}
{{- end }}

{{- /* What workers and queen have in common. A list of the root, the user of NATS. */ -}}
{{- define "rbee.env" -}}
{{- $root := index . 0 -}}
{{- $user := index . 1 -}}
- {name: NATS_URL, value: {{ include "rbee.natsUrl" $root | quote }}}
{{- with $root.Values.nats.passwordsSecret }}
- {name: NATS_USER, value: {{ $user }}}
- name: NATS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $user }}}}
- {name: NATS_INBOX_PREFIX, value: _INBOX.{{ $user }}}
{{- end }}
{{- if $root.Values.nats.caSecret }}
- {name: NATS_CA, value: /etc/nats-ca/ca.crt}
{{- end }}
{{- with $root.Values.subjectPrefix }}
- {name: SD_SUBJECT_PREFIX, value: {{ . | quote }}}
{{- end }}
- {name: SD_STREAM_REPLICAS, value: {{ $root.Values.streams.replicas | quote }}}
- {name: STORE_URL, value: {{ $root.Values.store.url | quote }}}
{{- with $root.Values.store.publicUrl }}
- {name: STORE_PUBLIC_URL, value: {{ . | quote }}}
{{- end }}
{{- with $root.Values.store.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
- {name: AWS_REGION, value: {{ $root.Values.store.region | quote }}}
{{- with $root.Values.store.secret }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $root.Values.store.secret }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}

{{- /* The pool's models, each once, in the order of the pools. */ -}}
{{- define "rbee.models" -}}
{{- $names := list -}}
{{- range .Values.pools -}}{{- range .models -}}{{- $names = append $names .name -}}{{- end -}}{{- end -}}
{{ $names | uniq | join "," }}
{{- end }}
