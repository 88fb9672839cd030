{{- /* Security contexts of pod and container, as Pod Security "restricted" requires. Argument: the user id. */}}
{{- define "couponry.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "couponry.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Labels of a pod. They contain no version, so that an upgrade without changes to a pod does not restart it. */}}
{{- define "couponry.podLabels" -}}
{{- $labels := dict "app.kubernetes.io/part-of" "couponry" "couponry.dev/monitored" "true" }}
{{- $labels = merge (include "couponry.selector" . | fromYaml) $labels .root.Values.commonLabels (default dict .values.podLabels) }}
{{- toYaml $labels }}
{{- end }}

{{- /* Scheduling of a pod. Argument: (dict "root" $ "component" NAME "values" VALUES). */}}
{{- define "couponry.scheduling" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
{{- $constraint := deepCopy . }}
{{- if not (hasKey $constraint "labelSelector") }}
{{- $selector := include "couponry.selector" (dict "root" $.root "component" $.component) | fromYaml }}
{{- $constraint = merge $constraint (dict "labelSelector" (dict "matchLabels" $selector) "matchLabelKeys" (list "pod-template-hash")) }}
{{- end }}
{{- list $constraint | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Environment of a program: the chart's variables, except those that extraEnv replaces, followed by extraEnv. Argument:
       (dict "root" $ "values" PROGRAM "env" YAML). */}}
{{- define "couponry.env" -}}
{{- $replaced := list }}
{{- range .values.extraEnv }}{{ $replaced = append $replaced .name }}{{ end }}
{{- $env := list }}
{{- range print (include "couponry.common.env" .root) "\n" .env | fromYamlArray }}
{{- if not (has .name $replaced) }}{{ $env = append $env . }}{{ end }}
{{- end }}
{{- concat $env .values.extraEnv | toYaml }}
{{- end }}

{{- define "couponry.common.env" -}}
- {name: RUST_LOG, value: {{ .Values.log.level | quote }}}
- {name: LOG_FORMAT, value: {{ .Values.log.format | quote }}}
- {name: MONITOR_LISTEN, value: "0.0.0.0:9090"}
{{- with .Values.tracing.otlpEndpoint }}
- {name: OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- /* Deployment of a program. Argument:
       (dict "root" $ "component" NAME "values" PROGRAM "env" YAML "ports" YAML "replicas" BOOL "grace" SECONDS "args" LIST
             "apiToken" BOOL "volumes" YAML "mounts" YAML). */}}
{{- define "couponry.deployment" -}}
{{- $root := .root }}
{{- $values := .values }}
{{- $component := .component }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "couponry.fullname" $root }}-{{ $component }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "couponry.labels" . | nindent 4 }}
spec:
  {{- if .replicas }}
  replicas: {{ $values.replicas | int64 }}
  {{- end }}
  selector:
    matchLabels: {{- include "couponry.selector" . | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels: {{- include "couponry.podLabels" . | nindent 8 }}
      {{- $annotations := mustMergeOverwrite (include "couponry.checksums" $root | fromYaml) $values.podAnnotations }}
      {{- with $annotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "couponry.serviceAccount" . }}
      automountServiceAccountToken: {{ .apiToken }}
      # Service environment variables could collide with those of the program's flags.
      enableServiceLinks: false
      {{- include "couponry.imagePullSecrets" $root | nindent 6 }}
      terminationGracePeriodSeconds: {{ .grace | int64 }}
      securityContext: {{- include "couponry.podSecurity" 65532 | nindent 8 }}
      {{- with include "couponry.scheduling" . }}
      {{- . | trim | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ $component }}
          image: {{ include "couponry.image" (dict "root" $root "image" $values.image) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- with concat .args $values.extraArgs }}
          args: {{- toYaml . | nindent 12 }}
          {{- end }}
          env: {{- include "couponry.env" . | nindent 12 }}
          ports:
            - {name: monitor, containerPort: 9090}
            {{- with .ports }}
            {{- . | nindent 12 }}
            {{- end }}
          # Liveness does not depend on Redis, Postgres or Kafka; readiness does.
          startupProbe:
            httpGet: {path: /livez, port: monitor}
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /livez, port: monitor}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: {path: /readyz, port: monitor}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 2
          resources: {{- toYaml $values.resources | nindent 12 }}
          securityContext: {{- include "couponry.containerSecurity" $root | nindent 12 }}
          {{- $mounts := printf "%s\n%s" .mounts ($values.extraVolumeMounts | default list | toYaml | replace "[]" "") | trim }}
          {{- with $mounts }}
          volumeMounts: {{- . | nindent 12 }}
          {{- end }}
      {{- $volumes := printf "%s\n%s" .volumes ($values.extraVolumes | default list | toYaml | replace "[]" "") | trim }}
      {{- with $volumes }}
      volumes: {{- . | nindent 8 }}
      {{- end }}
{{- end }}

{{- /* Restarts the programs when the password of an embedded server changes. */}}
{{- define "couponry.checksums" -}}
{{- if include "couponry.embedded.passwords" . }}
checksum/passwords: {{ include "couponry.embedded.passwords" . | sha256sum }}
{{- end }}
{{- end }}
