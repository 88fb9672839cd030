{{- /* Prefix of the objects' names: the release's name, followed by the chart's name unless the release's name contains it. */}}
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

{{- /* Name of a cluster-scoped object, unique across releases in different namespaces. */}}
{{- define "couponry.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "couponry.fullname" .) }}
{{- end }}

{{- /* The labels that never change, because a Deployment's selector is immutable. Argument: (dict "root" $ "component" NAME). */}}
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

{{- /* [registry/]repository followed by @digest or :tag. Argument: (dict "root" $ "image" VALUES). */}}
{{- define "couponry.image" -}}
{{- $registry := default .root.Values.image.registry .image.registry }}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") }}
{{- if .image.digest }}
{{- printf "%s@%s" $name .image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* Name of a program's ServiceAccount. Argument: (dict "root" $ "component" NAME "values" PROGRAM). */}}
{{- define "couponry.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
{{- default (printf "%s-%s" (include "couponry.fullname" .root) .component) .values.serviceAccount.name }}
{{- else }}
{{- default "default" .values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Link to an alert's section of the published runbook. Argument: (dict "root" $ "alert" NAME). */}}
{{- define "couponry.runbook" -}}
{{- with .root.Values.metrics.prometheusRule.runbookUrl }}
runbook_url: {{ printf "%s#%s" . (lower $.alert) | quote }}
{{- end }}
{{- end }}
