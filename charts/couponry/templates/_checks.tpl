{{- /* Validation that values.schema.json cannot express, or not with a clear message. Rendered with the first object. */}}
{{- define "couponry.checks" -}}
{{- $values := .Values }}
{{- /* Messages never quote a URL: it may contain a password. */}}
{{- with $values.redis.external.url }}
{{- range splitList "," . }}
{{- if contains "@" . }}{{ fail "redis.external.url must not contain credentials (use redis://host:port): set redis.external.existingSecret.name to a Secret with the password, and redis.external.username to the ACL user unless it is the default user" }}{{ end }}
{{- if not (regexMatch "^rediss?://[^/]" .) }}{{ fail "redis.external.url must begin with redis://, or with rediss:// for TLS, and so must each address after a comma: use redis://host:port" }}{{ end }}
{{- end }}
{{- end }}
{{- with $values.postgres.external.url }}
{{- if or (regexMatch "^[^@/]*:.*@" (regexReplaceAll "^[a-z]+://" . "")) (contains "password=" .) }}{{ fail "postgres.external.url must not contain a password (use postgres://user@host:port/database): set postgres.external.existingSecret.name to a Secret with the password" }}{{ end }}
{{- if not (regexMatch "^postgres(ql)?://[^@/]+@[^@]+$" .) }}{{ fail "postgres.external.url must contain a user and a host: use postgres://user@host:port/database" }}{{ end }}
{{- end }}
{{- if eq $values.redis.mode "external" }}
{{- $external := $values.redis.external }}
{{- if not $external.url }}{{ fail "redis.external.url is empty: set it to redis://host:port" }}{{ end }}
{{- if and (contains "," $external.url) (not $external.cluster) }}{{ fail "redis.external.url has several addresses: this requires a Redis Cluster (redis.external.cluster: true)" }}{{ end }}
{{- if and (include "couponry.hasFile" $external.ca) (not (hasPrefix "rediss://" $external.url)) }}{{ fail "redis.external.ca requires TLS: begin redis.external.url with rediss://" }}{{ end }}
{{- if and $external.username (not $external.existingSecret.name) }}{{ fail "redis.external.username requires redis.external.existingSecret.name, a Secret with the password" }}{{ end }}
{{- end }}
{{- if eq $values.postgres.mode "external" }}
{{- $external := $values.postgres.external }}
{{- if not $external.url }}{{ fail "postgres.external.url is empty: set it to postgres://user@host:port/database" }}{{ end }}
{{- end }}
{{- if eq $values.kafka.mode "external" }}
{{- $external := $values.kafka.external }}
{{- if not $external.brokers }}{{ fail "kafka.external.brokers is empty: set at least one host:port" }}{{ end }}
{{- if hasPrefix "sasl" $external.securityProtocol }}
{{- if not (and $external.sasl.username $external.sasl.existingSecret.name) }}{{ fail (printf "kafka.external.securityProtocol %s requires kafka.external.sasl.username and kafka.external.sasl.existingSecret.name" $external.securityProtocol) }}{{ end }}
{{- end }}
{{- if and (not (hasSuffix "ssl" $external.securityProtocol)) (or (include "couponry.hasFile" $external.ca) $external.clientCertificate.secretName) }}{{ fail (printf "kafka.external.ca and clientCertificate require TLS, but kafka.external.securityProtocol is %s: use ssl or sasl_ssl" $external.securityProtocol) }}{{ end }}
{{- end }}
{{- $replication := include "couponry.kafka.replication" . | int }}
{{- $inSync := include "couponry.kafka.inSync" . | int }}
{{- if gt $inSync $replication }}{{ fail (printf "kafka.topic.minInsyncReplicas %d exceeds kafka.topic.replication %d: every write would fail" $inSync $replication) }}{{ end }}
{{- $grace := include "couponry.redisRecoveryGrace" . | int }}
{{- $response := int $values.issuer.responseTimeoutSeconds }}
{{- if lt $grace $response }}{{ fail (printf "operator.redisRecoveryGraceSeconds %d is shorter than issuer.responseTimeoutSeconds %d: a recovery of Redis would reject coupons that were returned to users" $grace $response) }}{{ end }}
{{- $jwt := $values.issuer.jwt }}
{{- if eq $values.issuer.userIdentity "jwt" }}
{{- if not (or $jwt.jwksUrl (include "couponry.hasFile" $jwt.jwks)) }}{{ fail "issuer.userIdentity jwt requires issuer.jwt.jwksUrl, or issuer.jwt.jwks.secretName or configMapName" }}{{ end }}
{{- if and (include "couponry.hasFile" $jwt.ca) (not (hasPrefix "https://" $jwt.jwksUrl)) }}{{ fail "issuer.jwt.ca requires an issuer.jwt.jwksUrl that begins with https://" }}{{ end }}
{{- if and $jwt.jwksUrl (include "couponry.hasFile" $jwt.jwks) }}{{ fail "issuer.jwt.jwksUrl and issuer.jwt.jwks are both set: remove one" }}{{ end }}
{{- end }}
{{- range $name, $file := dict "redis.external.ca" $values.redis.external.ca "postgres.external.ca" $values.postgres.external.ca "kafka.external.ca" $values.kafka.external.ca "issuer.jwt.jwks" $jwt.jwks "issuer.jwt.ca" $jwt.ca }}
{{- if and $file.secretName $file.configMapName }}{{ fail (printf "%s has a secretName and a configMapName: remove one" $name) }}{{ end }}
{{- end }}
{{- range $name, $autoscaling := dict "issuer" $values.issuer.autoscaling "consumer" $values.consumer.autoscaling }}
{{- if gt (int $autoscaling.minReplicas) (int $autoscaling.maxReplicas) }}{{ fail (printf "%s.autoscaling.minReplicas exceeds maxReplicas" $name) }}{{ end }}
{{- end }}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs is empty: add a reference to the Gateway" }}{{ end }}
{{- end }}

{{- define "couponry.redisRecoveryGrace" -}}
{{- if kindIs "invalid" .Values.operator.redisRecoveryGraceSeconds }}{{ max 4 (int .Values.issuer.responseTimeoutSeconds) }}{{ else }}{{ int .Values.operator.redisRecoveryGraceSeconds }}{{ end }}
{{- end }}

{{- define "couponry.kafka.replication" -}}
{{- if kindIs "invalid" .Values.kafka.topic.replication }}{{ ternary 1 3 (eq .Values.kafka.mode "embedded") }}{{ else }}{{ .Values.kafka.topic.replication }}{{ end }}
{{- end }}

{{- define "couponry.kafka.inSync" -}}
{{- if kindIs "invalid" .Values.kafka.topic.minInsyncReplicas }}{{ min 2 (include "couponry.kafka.replication" . | int) }}{{ else }}{{ .Values.kafka.topic.minInsyncReplicas }}{{ end }}
{{- end }}
