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

{{- /* Labels of an object. Argument: (dict "root" $ "component" NAME), and "extra" with labels of this object only. */}}
{{- define "couponry.labels" -}}
{{- $labels := include "couponry.selector" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "couponry" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $labels "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
{{- merge $labels (default dict .extra) .root.Values.commonLabels | toYaml }}
{{- end }}

{{- /* [registry/]repository followed by @digest or :tag. Argument: (dict "root" $ "image" VALUES). */}}
{{- define "couponry.image" -}}
{{- $global := default dict .root.Values.global }}
{{- $registry := $global.imageRegistry | default .image.registry | default .root.Values.image.registry }}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") }}
{{- if .image.digest }}
{{- printf "%s@%s" $name .image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* The pod's imagePullSecrets. A parent chart may list names or objects. */}}
{{- define "couponry.imagePullSecrets" -}}
{{- $secrets := list }}
{{- range (default dict .Values.global).imagePullSecrets }}
{{- $secrets = append $secrets (ternary . (dict "name" .) (kindIs "map" .)) }}
{{- end }}
{{- with concat $secrets .Values.imagePullSecrets | uniq }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A number as text without an exponent. `--set` passes fractions as strings. */}}
{{- define "couponry.decimal" -}}
{{- toJson . | trimAll "\"" }}
{{- end }}

{{- /* Name of a program's ServiceAccount. Argument: (dict "root" $ "component" NAME "values" PROGRAM). */}}
{{- define "couponry.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
{{- default (printf "%s-%s" (include "couponry.fullname" .root) .component) .values.serviceAccount.name }}
{{- else }}
{{- default "default" .values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* The programs of the release. */}}
{{- define "couponry.programs" -}}
[operator, issuer, consumer{{ if .Values.redeemer.enabled }}, redeemer{{ end }}]
{{- end }}

{{- /* Link to an alert's section of the published runbook. Argument: (dict "root" $ "alert" NAME). */}}
{{- define "couponry.runbook" -}}
{{- with .root.Values.metrics.prometheusRule.runbookUrl }}
runbook_url: {{ printf "%s#%s" . (lower $.alert) | quote }}
{{- end }}
{{- end }}
