{{- /* What the values' schema cannot say, or not in plain words. Rendered with the first object. */}}
{{- define "couponry.checks" -}}
{{- $values := .Values }}
{{- /* A URL is never quoted: it may have a password in it. */}}
{{- with $values.redis.external.url }}
{{- range splitList "," . }}
{{- if contains "@" . }}{{ fail "redis.external.url must be without a login (write redis://host:port): the password goes into a Secret, whose name into redis.external.existingSecret.name, and the user, if it is not the default one, into redis.external.username" }}{{ end }}
{{- if not (regexMatch "^rediss?://[^/]" .) }}{{ fail "redis.external.url must begin with redis://, or with rediss:// for TLS, and so must each address after a comma: write redis://host:port" }}{{ end }}
{{- end }}
{{- end }}
{{- with $values.postgres.external.url }}
{{- if or (regexMatch "^[^@/]*:.*@" (regexReplaceAll "^[a-z]+://" . "")) (contains "password=" .) }}{{ fail "postgres.external.url must be without a password (write postgres://user@host:port/database): it goes into a Secret, whose name into postgres.external.existingSecret.name" }}{{ end }}
{{- if not (regexMatch "^postgres(ql)?://[^@/]+@[^@]+$" .) }}{{ fail "postgres.external.url must be a whole one, with a user: write postgres://user@host:port/database" }}{{ end }}
{{- end }}
{{- if eq $values.redis.mode "external" }}
{{- $external := $values.redis.external }}
{{- if not $external.url }}{{ fail "redis.external.url is empty: redis://host:port" }}{{ end }}
{{- if and (contains "," $external.url) (not $external.cluster) }}{{ fail "redis.external.url has several addresses: only a Redis Cluster (redis.external.cluster: true) takes more than one" }}{{ end }}
{{- if and (include "couponry.hasFile" $external.ca) (not (hasPrefix "rediss://" $external.url)) }}{{ fail "redis.external.ca is for TLS, but redis.external.url does not begin with rediss://" }}{{ end }}
{{- if and $external.username (not $external.existingSecret.name) }}{{ fail "redis.external.username needs redis.external.existingSecret.name, which has the password" }}{{ end }}
{{- end }}
{{- if eq $values.postgres.mode "external" }}
{{- $external := $values.postgres.external }}
{{- if not $external.url }}{{ fail "postgres.external.url is empty: postgres://user@host:port/database" }}{{ end }}
{{- end }}
{{- if eq $values.kafka.mode "external" }}
{{- $external := $values.kafka.external }}
{{- if not $external.brokers }}{{ fail "kafka.external.brokers is empty: name at least one host:port" }}{{ end }}
{{- if hasPrefix "sasl" $external.securityProtocol }}
{{- if not (and $external.sasl.username $external.sasl.existingSecret.name) }}{{ fail (printf "kafka.external.securityProtocol %s needs kafka.external.sasl.username and kafka.external.sasl.existingSecret.name" $external.securityProtocol) }}{{ end }}
{{- end }}
{{- if and (not (hasSuffix "ssl" $external.securityProtocol)) (or (include "couponry.hasFile" $external.ca) $external.clientCertificate.secretName) }}{{ fail (printf "kafka.external.ca and clientCertificate are for TLS, but kafka.external.securityProtocol is %s" $external.securityProtocol) }}{{ end }}
{{- end }}
{{- $replication := include "couponry.kafka.replication" . | int }}
{{- $inSync := include "couponry.kafka.inSync" . | int }}
{{- if gt $inSync $replication }}{{ fail (printf "kafka.topic.minInsyncReplicas %d is more than kafka.topic.replication %d: nothing could ever be written" $inSync $replication) }}{{ end }}
{{- $jwt := $values.issuer.jwt }}
{{- if eq $values.issuer.userIdentity "jwt" }}
{{- if not (or $jwt.jwksUrl (include "couponry.hasFile" $jwt.jwks)) }}{{ fail "issuer.userIdentity jwt needs issuer.jwt.jwksUrl, or issuer.jwt.jwks.secretName or configMapName" }}{{ end }}
{{- if and (include "couponry.hasFile" $jwt.ca) (not (hasPrefix "https://" $jwt.jwksUrl)) }}{{ fail "issuer.jwt.ca is for an issuer.jwt.jwksUrl that begins with https://" }}{{ end }}
{{- if and $jwt.jwksUrl (include "couponry.hasFile" $jwt.jwks) }}{{ fail "issuer.jwt.jwksUrl and issuer.jwt.jwks are both set: keep one" }}{{ end }}
{{- end }}
{{- range $name, $file := dict "redis.external.ca" $values.redis.external.ca "postgres.external.ca" $values.postgres.external.ca "kafka.external.ca" $values.kafka.external.ca "issuer.jwt.jwks" $jwt.jwks "issuer.jwt.ca" $jwt.ca }}
{{- if and $file.secretName $file.configMapName }}{{ fail (printf "%s has a secretName and a configMapName: keep one" $name) }}{{ end }}
{{- end }}
{{- range $name, $autoscaling := dict "issuer" $values.issuer.autoscaling "consumer" $values.consumer.autoscaling }}
{{- if gt (int $autoscaling.minReplicas) (int $autoscaling.maxReplicas) }}{{ fail (printf "%s.autoscaling.minReplicas is more than maxReplicas" $name) }}{{ end }}
{{- end }}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs is empty: name the Gateway" }}{{ end }}
{{- end }}

{{- define "couponry.kafka.replication" -}}
{{- if kindIs "invalid" .Values.kafka.topic.replication }}{{ ternary 1 3 (eq .Values.kafka.mode "embedded") }}{{ else }}{{ .Values.kafka.topic.replication }}{{ end }}
{{- end }}

{{- define "couponry.kafka.inSync" -}}
{{- if kindIs "invalid" .Values.kafka.topic.minInsyncReplicas }}{{ min 2 (include "couponry.kafka.replication" . | int) }}{{ else }}{{ .Values.kafka.topic.minInsyncReplicas }}{{ end }}
{{- end }}
