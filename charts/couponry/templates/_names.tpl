{{- /* The name of the release's objects: the release's name, with the chart's unless that is in it already. */}}
{{- define "couponry.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "couponry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* The name of an object of the whole cluster: two releases in two namespaces must not share it. */}}
{{- define "couponry.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "couponry.fullname" .) }}
{{- end }}

{{- /* What never changes of the labels. A Deployment's selector cannot. Takes (dict "root" $ "component" NAME). */}}
{{- define "couponry.selector" -}}
app.kubernetes.io/name: {{ include "couponry.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "couponry.labels" -}}
{{ include "couponry.selector" . }}
app.kubernetes.io/part-of: couponry
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* [registry/]repository then @digest or :tag. Takes (dict "root" $ "image" VALUES). */}}
{{- define "couponry.image" -}}
{{- $registry := default .root.Values.image.registry .image.registry }}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") }}
{{- if .image.digest }}
{{- printf "%s@%s" $name .image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* The ServiceAccount of a program. Takes (dict "root" $ "component" NAME "values" PROGRAM). */}}
{{- define "couponry.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
{{- default (printf "%s-%s" (include "couponry.fullname" .root) .component) .values.serviceAccount.name }}
{{- else }}
{{- default "default" .values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Where the Prometheus rules and the dashboard look: one installation has a namespace of its own. */}}
{{- define "couponry.runbook" -}}
{{- with .root.Values.metrics.prometheusRule.runbookUrl }}
runbook_url: {{ printf "%s#%s" . (lower $.alert) | quote }}
{{- end }}
{{- end }}
