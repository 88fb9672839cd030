{{- /* Connection settings of the servers: environment, volumes and mounts. Environment variables instead of arguments, so that
       commands run with `kubectl exec` in the same pod use them too. Secrets are mounted as files and referred to as @/path. */}}

{{- define "couponry.redis.env" -}}
{{- $redis := .Values.redis }}
{{- if eq $redis.mode "embedded" }}
- {name: REDIS_URL, value: "redis://{{ include "couponry.fullname" . }}-redis:6379"}
- {name: REDIS_PASSWORD, value: "@/etc/couponry/redis/password"}
{{- else }}
{{- $external := $redis.external }}
- {name: REDIS_URL, value: {{ $external.url | quote }}}
{{- if $external.cluster }}
- {name: REDIS_CLUSTER, value: "true"}
{{- end }}
{{- with $external.username }}
- {name: REDIS_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- if $external.existingSecret.name }}
- {name: REDIS_PASSWORD, value: "@/etc/couponry/redis/password"}
{{- end }}
{{- if include "couponry.hasFile" $external.ca }}
- {name: REDIS_CA_FILE, value: /etc/couponry/redis-ca/ca.crt}
{{- end }}
{{- end }}
{{- with $redis.keyPrefix }}
- {name: REDIS_KEY_PREFIX, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "couponry.postgres.env" -}}
{{- if eq .Values.postgres.mode "embedded" }}
- {name: POSTGRES_URL, value: "postgres://couponry@{{ include "couponry.fullname" . }}-postgres:5432/couponry"}
- {name: POSTGRES_PASSWORD, value: "@/etc/couponry/postgres/password"}
{{- else }}
{{- $external := .Values.postgres.external }}
- {name: POSTGRES_URL, value: {{ $external.url | quote }}}
{{- if $external.existingSecret.name }}
- {name: POSTGRES_PASSWORD, value: "@/etc/couponry/postgres/password"}
{{- end }}
{{- if include "couponry.hasFile" $external.ca }}
- {name: POSTGRES_CA_FILE, value: /etc/couponry/postgres-ca/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "couponry.kafka.env" -}}
{{- if eq .Values.kafka.mode "embedded" }}
- {name: KAFKA_BROKERS, value: "{{ include "couponry.fullname" . }}-kafka:9092"}
{{- else }}
{{- $external := .Values.kafka.external }}
- {name: KAFKA_BROKERS, value: {{ $external.brokers | quote }}}
- {name: KAFKA_SECURITY_PROTOCOL, value: {{ $external.securityProtocol | quote }}}
{{- if include "couponry.hasFile" $external.ca }}
- {name: KAFKA_CA_FILE, value: /etc/couponry/kafka-ca/ca.crt}
{{- end }}
{{- if hasPrefix "sasl" $external.securityProtocol }}
- {name: KAFKA_SASL_MECHANISM, value: {{ $external.sasl.mechanism | quote }}}
- {name: KAFKA_SASL_USERNAME, value: {{ $external.sasl.username | quote }}}
- {name: KAFKA_SASL_PASSWORD, value: "@/etc/couponry/kafka/password"}
{{- end }}
{{- if $external.clientCertificate.secretName }}
- {name: KAFKA_CLIENT_CERT_FILE, value: /etc/couponry/kafka-client/tls.crt}
- {name: KAFKA_CLIENT_KEY_FILE, value: /etc/couponry/kafka-client/tls.key}
{{- end }}
{{- end }}
{{- end }}

{{- /* Not empty if (dict "secretName" "configMapName" "key") refers to a Secret or ConfigMap. */}}
{{- define "couponry.hasFile" -}}
{{- if or .secretName .configMapName }}yes{{ end }}
{{- end }}

{{- /* Volume with one file, readable by the pod's group only (288 is 0440). Argument:
       (dict "name" VOLUME "from" (dict "secretName" "configMapName" "key") "file" NAME). */}}
{{- define "couponry.fileVolume" -}}
- name: {{ .name }}
  {{- if .from.secretName }}
  secret:
    secretName: {{ .from.secretName }}
    defaultMode: 288
    items: [{key: {{ .from.key | quote }}, path: {{ .file }}}]
  {{- else }}
  configMap:
    name: {{ .from.configMapName }}
    items: [{key: {{ .from.key | quote }}, path: {{ .file }}}]
  {{- end }}
{{- end }}

{{- /* The files that the environment refers to, as a list of (dict "name" "from" "file"); each is a volume mounted below
       /etc/couponry. Argument: (dict "root" $ "servers" (list "redis" ...)). */}}
{{- define "couponry.files" -}}
{{- $root := .root }}
{{- $files := list }}
{{- range .servers }}
{{- $server := get $root.Values . }}
{{- if eq $server.mode "embedded" }}
{{- if ne . "kafka" }}
{{- $secret := include "couponry.embedded.secret" (dict "root" $root "component" .) | fromYaml }}
{{- $files = append $files (dict "name" . "file" "password" "from" (dict "secretName" $secret.name "key" $secret.key)) }}
{{- end }}
{{- else }}
{{- $external := $server.external }}
{{- $secret := ternary $external.sasl $external (eq . "kafka") | dig "existingSecret" dict }}
{{- if and $secret.name (or (ne . "kafka") (hasPrefix "sasl" (default "" $external.securityProtocol))) }}
{{- $files = append $files (dict "name" . "file" "password" "from" (dict "secretName" $secret.name "key" $secret.key)) }}
{{- end }}
{{- if include "couponry.hasFile" $external.ca }}
{{- $files = append $files (dict "name" (printf "%s-ca" .) "file" "ca.crt" "from" $external.ca) }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $files }}
{{- end }}

{{- define "couponry.files.volumes" -}}
{{- range include "couponry.files" . | fromYamlArray }}
{{ include "couponry.fileVolume" . }}
{{- end }}
{{- if and (has "kafka" .servers) (eq .root.Values.kafka.mode "external") }}
{{- with .root.Values.kafka.external.clientCertificate }}
{{- if .secretName }}
- name: kafka-client
  secret:
    secretName: {{ .secretName }}
    defaultMode: 288
    items: [{key: {{ .certKey | quote }}, path: tls.crt}, {key: {{ .keyKey | quote }}, path: tls.key}]
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "couponry.files.mounts" -}}
{{- range include "couponry.files" . | fromYamlArray }}
- {name: {{ .name }}, mountPath: /etc/couponry/{{ .name }}, readOnly: true}
{{- end }}
{{- if and (has "kafka" .servers) (eq .root.Values.kafka.mode "external") (.root.Values.kafka.external.clientCertificate.secretName) }}
- {name: kafka-client, mountPath: /etc/couponry/kafka-client, readOnly: true}
{{- end }}
{{- end }}

{{- /* Passwords of the embedded servers without an existingSecret, as data of a Secret. Derived from constants, so that every
       rendering yields the same ones. */}}
{{- define "couponry.embedded.passwords" -}}
{{- $root := . }}
{{- range list "redis" "postgres" }}
{{- $server := get $root.Values . }}
{{- if and (eq $server.mode "embedded") (not $server.embedded.existingSecret.name) }}
{{ . }}: {{ printf "%s/%s/%s/%s" $root.Values.embeddedPasswordSeed $root.Release.Namespace $root.Release.Name . | sha256sum | trunc 40 }}
{{- end }}
{{- end }}
{{- end }}
