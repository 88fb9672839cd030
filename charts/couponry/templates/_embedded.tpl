{{- /* Service and StatefulSet of an embedded server: one pod, one volume. Argument:
       (dict "root" $ "component" NAME "port" PORT "headless" BOOL "user" ID "data" PATH "config" YAML
             "container" YAML "volumes" YAML "mounts" YAML "grace" SECONDS). */}}
{{- define "couponry.embedded" -}}
{{- $root := .root }}
{{- $values := (get $root.Values .component).embedded }}
{{- $name := printf "%s-%s" (include "couponry.fullname" $root) .component }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "couponry.labels" . | nindent 4 }}
spec:
  {{- if .headless }}
  # The server connects to itself through this name, also before it is ready.
  clusterIP: None
  publishNotReadyAddresses: true
  {{- end }}
  selector: {{- include "couponry.selector" . | nindent 4 }}
  ports:
    - {name: {{ .component }}, port: {{ .port }}, targetPort: server}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "couponry.labels" . | nindent 4 }}
spec:
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels: {{- include "couponry.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "couponry.selector" . | nindent 8 }}
        app.kubernetes.io/part-of: couponry
      annotations:
        checksum/config: {{ .config | sha256sum }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- include "couponry.imagePullSecrets" $root | nindent 6 }}
      terminationGracePeriodSeconds: {{ .grace }}
      securityContext: {{- include "couponry.podSecurity" .user | nindent 8 }}
      {{- with include "couponry.scheduling" (dict "root" $root "component" .component "values" $values) }}
      {{- . | trim | nindent 6 }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "couponry.image" (dict "root" $root "image" $values.image) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- .container | nindent 10 }}
          ports:
            - {name: server, containerPort: {{ .port }}}
          resources: {{- toYaml $values.resources | nindent 12 }}
          securityContext: {{- include "couponry.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: {{ .data }}}
            {{- .mounts | nindent 12 }}
      volumes: {{- .volumes | nindent 8 }}
  volumeClaimTemplates:
    - metadata:
        name: data
        labels: {{- include "couponry.selector" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $values.storage.className }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ $values.storage.size | toYaml }}}}
{{- end }}

{{- /* The Secret with an embedded server's password: existingSecret, or the chart's own. Argument: (dict "root" $ "component" NAME). */}}
{{- define "couponry.embedded.secret" -}}
{{- $existing := (get .root.Values .component).embedded.existingSecret }}
{{- if $existing.name }}
{{- dict "name" $existing.name "key" $existing.key | toYaml }}
{{- else }}
{{- dict "name" (printf "%s-passwords" (include "couponry.fullname" .root)) "key" .component | toYaml }}
{{- end }}
{{- end }}
