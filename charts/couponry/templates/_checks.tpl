{{- /* Validation that values.schema.json cannot express, or not with a clear message. Rendered with the first object. */}}
{{- define "couponry.checks" -}}
{{- $values := .Values }}
{{- /* Units of Kubernetes, of redis.conf and of the JVM: the letter m is different in each. */}}
{{- $binary := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $units := merge (dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12) $binary }}
{{- $redisUnits := dict "" 1 "k" 1e3 "kb" $binary.Ki "m" 1e6 "mb" $binary.Mi "g" 1e9 "gb" $binary.Gi }}
{{- $jvmUnits := dict "k" $binary.Ki "K" $binary.Ki "m" $binary.Mi "M" $binary.Mi "g" $binary.Gi "G" $binary.Gi }}
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
{{- $verifying := dict }}
{{- if eq $values.issuer.userIdentity "jwt" }}{{ $verifying = set $verifying "issuer" (dict "setting" "issuer.userIdentity" "jwt" $jwt) }}{{ end }}
{{- with $values.redeemer }}
{{- if and .enabled (eq .auth "jwt") }}
{{- $verifying = set $verifying "redeemer" (dict "setting" "redeemer.auth" "jwt" .jwt) }}
{{- if not .jwt.audience }}{{ fail "redeemer.auth jwt requires redeemer.jwt.audience: otherwise tokens of users would be accepted" }}{{ end }}
{{- end }}
{{- end }}
{{- range $program, $verifier := $verifying }}
{{- $jwt := $verifier.jwt }}
{{- if not (or $jwt.jwksUrl (include "couponry.hasFile" $jwt.jwks)) }}{{ fail (printf "%s jwt requires %s.jwt.jwksUrl, or %s.jwt.jwks.secretName or configMapName" $verifier.setting $program $program) }}{{ end }}
{{- if and (include "couponry.hasFile" $jwt.ca) (not (hasPrefix "https://" $jwt.jwksUrl)) }}{{ fail (printf "%s.jwt.ca requires that %s.jwt.jwksUrl begins with https://" $program $program) }}{{ end }}
{{- if and $jwt.jwksUrl (include "couponry.hasFile" $jwt.jwks) }}{{ fail (printf "%s.jwt.jwksUrl and %s.jwt.jwks are both set: remove one" $program $program) }}{{ end }}
{{- end }}
{{- range $name, $file := dict "redis.external.ca" $values.redis.external.ca "postgres.external.ca" $values.postgres.external.ca "kafka.external.ca" $values.kafka.external.ca "issuer.jwt.jwks" $jwt.jwks "issuer.jwt.ca" $jwt.ca "redeemer.jwt.jwks" $values.redeemer.jwt.jwks "redeemer.jwt.ca" $values.redeemer.jwt.ca }}
{{- if and $file.secretName $file.configMapName }}{{ fail (printf "%s has a secretName and a configMapName: remove one" $name) }}{{ end }}
{{- end }}
{{- $issuer := $values.issuer }}
{{- $needed := add $issuer.drainSeconds 30 }}
{{- if lt (include "couponry.issuerGrace" . | int64) $needed }}{{ fail (printf "issuer.terminationGracePeriodSeconds %d is shorter than issuer.drainSeconds %d plus 30: an issuer would be killed while it serves requests" (int64 $issuer.terminationGracePeriodSeconds) (int64 $issuer.drainSeconds)) }}{{ end }}
{{- with $values.redeemer }}
{{- if lt (int64 .terminationGracePeriodSeconds) (add .drainSeconds 25) }}{{ fail (printf "redeemer.terminationGracePeriodSeconds %d is shorter than redeemer.drainSeconds %d plus 25: a redeemer would be killed while it serves requests" (int64 .terminationGracePeriodSeconds) (int64 .drainSeconds)) }}{{ end }}
{{- end }}
{{- if eq $values.kafka.usedTopic $values.kafka.topic.name }}{{ fail "kafka.usedTopic and kafka.topic.name are equal: they must be different topics" }}{{ end }}
{{- range $server, $setting := dict "redis" (dict "name" "maxMemory" "units" $redisUnits) "kafka" (dict "name" "heap" "units" $jvmUnits) }}
{{- $embedded := (get $values $server).embedded }}
{{- $limit := dig "limits" "memory" "" $embedded.resources }}
{{- $size := get $embedded $setting.name }}
{{- if and $limit (eq (get $values $server).mode "embedded") }}
{{- $bytes := include "couponry.bytes" (dict "size" $size "units" $setting.units) | int64 }}
{{- if or (eq $bytes 0) (ge $bytes (include "couponry.bytes" (dict "size" $limit "units" $units) | int64)) }}{{ fail (printf "%s.embedded.%s %s is not below %s.embedded.resources.limits.memory %v: the server would be OOM-killed" $server $setting.name $size $server $limit) }}{{ end }}
{{- end }}
{{- end }}
{{- range $program := list "operator" "issuer" "consumer" "redeemer" }}
{{- $names := list }}
{{- range (get $values $program).extraEnv }}
{{- if has .name $names }}{{ fail (printf "%s.extraEnv contains %s more than once: remove one" $program .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}
{{- $policy := $values.networkPolicy }}
{{- if and $policy.enabled $policy.egress.enabled (not $policy.egress.extra) }}
{{- $blocked := list }}
{{- range $server := list "redis" "postgres" "kafka" }}
{{- if eq (get $values $server).mode "external" }}{{ $blocked = append $blocked (printf "%s.external" $server) }}{{ end }}
{{- end }}
{{- range $program, $verifier := $verifying }}
{{- if $verifier.jwt.jwksUrl }}{{ $blocked = append $blocked (printf "%s.jwt.jwksUrl" $program) }}{{ end }}
{{- end }}
{{- if $values.tracing.otlpEndpoint }}{{ $blocked = append $blocked "tracing.otlpEndpoint" }}{{ end }}
{{- if $blocked }}{{ fail (printf "networkPolicy.egress.enabled blocks connections to %s: add their addresses to networkPolicy.egress.extra" (join ", " $blocked)) }}{{ end }}
{{- end }}
{{- range $name, $autoscaling := dict "issuer" $values.issuer.autoscaling "consumer" $values.consumer.autoscaling "redeemer" $values.redeemer.autoscaling }}
{{- if gt (int $autoscaling.minReplicas) (int $autoscaling.maxReplicas) }}{{ fail (printf "%s.autoscaling.minReplicas exceeds maxReplicas" $name) }}{{ end }}
{{- end }}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) }}{{ fail "httpRoute.parentRefs is empty: add a reference to the Gateway" }}{{ end }}
{{- end }}

{{- /* A size in bytes. Argument: (dict "size" QUANTITY "units" (dict UNIT BYTES)). */}}
{{- define "couponry.bytes" -}}
{{- $size := include "couponry.decimal" .size }}
{{- $number := regexFind "^[0-9.]+([eE][0-9]+)?" $size }}
{{- mulf $number (get .units (trimPrefix $number $size)) | int64 }}
{{- end }}

{{- define "couponry.issuerGrace" -}}
{{- if kindIs "invalid" .Values.issuer.terminationGracePeriodSeconds }}{{ add .Values.issuer.drainSeconds 60 }}{{ else }}{{ int64 .Values.issuer.terminationGracePeriodSeconds }}{{ end }}
{{- end }}

{{- define "couponry.redisRecoveryGrace" -}}
{{- if kindIs "invalid" .Values.operator.redisRecoveryGraceSeconds }}{{ max 4 (int .Values.issuer.responseTimeoutSeconds) }}{{ else }}{{ int64 .Values.operator.redisRecoveryGraceSeconds }}{{ end }}
{{- end }}

{{- define "couponry.kafka.replication" -}}
{{- if kindIs "invalid" .Values.kafka.topic.replication }}{{ ternary 1 3 (eq .Values.kafka.mode "embedded") }}{{ else }}{{ int64 .Values.kafka.topic.replication }}{{ end }}
{{- end }}

{{- define "couponry.kafka.inSync" -}}
{{- if kindIs "invalid" .Values.kafka.topic.minInsyncReplicas }}{{ min 2 (include "couponry.kafka.replication" . | int) }}{{ else }}{{ int64 .Values.kafka.topic.minInsyncReplicas }}{{ end }}
{{- end }}
