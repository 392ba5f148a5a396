{{/* 40 characters leave room for the longest suffix, "-controller-metrics", in a Service's 63. */}}
{{- define "pullpass.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "pullpass.rulesConfigMap" -}}
{{- .Values.existingRulesConfigMap | default (printf "%s-rules" (include "pullpass.fullname" .)) }}
{{- end }}

{{- define "pullpass.tlsSecret" -}}
{{- .Values.certificates.secretName | default (printf "%s-tls" (include "pullpass.fullname" .)) }}
{{- end }}

{{/* Only the controller reads this one. */}}
{{- define "pullpass.caSecret" -}}
{{- include "pullpass.fullname" . }}-ca
{{- end }}

{{- define "pullpass.indexConfigMap" -}}
{{- include "pullpass.fullname" . }}-index
{{- end }}

{{/* The label app.kubernetes.io/name is always the chart's name: `pullpass doctor` finds things by it. */}}

{{/* Labels by which objects are selected; they never change. Argument: (dict "root" $ "component" X). */}}
{{- define "pullpass.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Argument: the root, or (dict "root" $ "component" X). */}}
{{- define "pullpass.labels" -}}
{{- $root := .root | default . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "pullpass.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What the controller is told about certificates. */}}
{{- define "pullpass.certificates" -}}
{{- if .Values.webhook.url }}none
{{- else if eq .Values.certificates.mode "certManager" }}cert-manager
{{- else }}{{ .Values.certificates.mode }}
{{- end }}
{{- end }}

{{/* Names of the Secrets that may be copied, as a JSON list. Secrets that namespaces bring are not ours to copy. */}}
{{- define "pullpass.copiedSecrets" -}}
{{- $names := .Values.delivery.secretNames -}}
{{- range .Values.rules.pullSecrets -}}
{{- if ne (.deliver | default "Always") "Never" -}}
{{- $names = append $names (.secretName | default .name) -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* Names of the sources in other namespaces, as a JSON list. */}}
{{- define "pullpass.sourcesElsewhere" -}}
{{- $names := list -}}
{{- range .Values.rules.pullSecrets -}}
{{- if and (ne (.deliver | default "Always") "Never") (dig "source" "namespace" "" .) -}}
{{- $names = append $names (dig "source" "secret" .name .) -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end }}

{{/* Not empty if rules deliver on demand, or if the chart cannot see them. */}}
{{- define "pullpass.mayBeOnDemand" -}}
{{- if .Values.delivery.secretNames -}}true{{- end -}}
{{- range .Values.rules.pullSecrets -}}
{{- if eq (.deliver | default "Always") "OnDemand" -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* Not empty if rules attach secrets to ServiceAccounts, or if the chart is told that they do. */}}
{{- define "pullpass.mayAttach" -}}
{{- if .Values.delivery.serviceAccounts -}}true{{- end -}}
{{- range .Values.rules.pullSecrets -}}
{{- if and .serviceAccounts (ne (.deliver | default "Always") "Never") -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* Dual stack, for every Service. */}}
{{- define "pullpass.ipFamilies" -}}
{{- $families := dict -}}
{{- range $field, $value := .Values.service -}}
{{- if $value }}{{ $_ := set $families $field $value }}{{ end -}}
{{- end -}}
{{- if $families }}{{ toYaml $families }}{{ end -}}
{{- end }}
