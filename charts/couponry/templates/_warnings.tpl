{{- /* One line per value that is insecure, or too small for production, with what to set. The notes print them. */}}
{{- define "couponry.warnings" -}}
{{- $values := .Values }}
{{- $issuer := $values.issuer }}
{{- $policy := $values.networkPolicy }}
{{- $lines := list }}
{{- $global := default dict $values.global }}

{{- /* Security. */}}
{{- if eq $issuer.userIdentity "body" }}
{{- $lines = append $lines "issuer.userIdentity is body: the userId of a request is not authenticated. Set jwt, or header:NAME behind a proxy that sets this header." }}
{{- end }}
{{- if and (hasPrefix "header:" $issuer.userIdentity) (not (and $policy.enabled $policy.issuerFrom)) }}
{{- $lines = append $lines (printf "issuer.userIdentity is %s: any client that can connect to the issuer can impersonate any user. Set networkPolicy.issuerFrom to your proxy." $issuer.userIdentity) }}
{{- end }}
{{- $redeemer := $values.redeemer }}
{{- if and $redeemer.enabled (eq $redeemer.auth "none") }}
{{- $lines = append $lines "redeemer.auth is none: every client that can connect to the redeemer can redeem coupons. Set service-account or jwt." }}
{{- end }}
{{- if not $policy.enabled }}
{{- $lines = append $lines "networkPolicy.enabled is false: every pod can connect to the programs and to the embedded servers. Set it to true." }}
{{- else }}
{{- if and (not $policy.issuerFrom) (not (hasPrefix "header:" $issuer.userIdentity)) }}
{{- $lines = append $lines "networkPolicy.issuerFrom is empty: every pod can request coupons. Set it to your ingress controller." }}
{{- end }}
{{- if and $redeemer.enabled (not $policy.redeemerFrom) }}
{{- $lines = append $lines "networkPolicy.redeemerFrom is empty: every pod can connect to the redeemer. Set it to the servers of your shop." }}
{{- end }}
{{- if and $values.operator.admin.enabled (not $policy.adminFrom) }}
{{- $lines = append $lines "networkPolicy.adminFrom is empty: every pod can connect to the admin port. Set it to the clients of the admin API." }}
{{- end }}
{{- if not $policy.monitorFrom }}
{{- $lines = append $lines "networkPolicy.monitorFrom is empty: every pod can read names and counts of events. Set it to your Prometheus." }}
{{- end }}
{{- if not $policy.egress.enabled }}
{{- $lines = append $lines "networkPolicy.egress.enabled is false: a compromised pod can connect to any address. Set it to true, with networkPolicy.egress.extra for external servers." }}
{{- end }}
{{- end }}
{{- if and (not $values.embeddedPasswordSeed) (include "couponry.embedded.passwords" .) }}
{{- $lines = append $lines "embeddedPasswordSeed is empty: the passwords of the embedded servers can be derived from the names of namespace and release. Set it to a random value, and never change it." }}
{{- end }}
{{- if $values.rbac.aggregate }}
{{- $lines = append $lines "rbac.aggregate is true: each user with edit permission for the namespace can create events, including discounts of 100 %. Set it to false, and bind a Role of your own." }}
{{- end }}
{{- with $values.redis }}
{{- if eq .mode "external" }}
{{- if contains "redis://" .external.url }}
{{- $lines = append $lines "redis.external.url begins with redis://: connections are not encrypted. Use rediss://." }}
{{- end }}
{{- if not .external.existingSecret.name }}
{{- $lines = append $lines "redis.external.existingSecret.name is empty: the programs use no password. Set it to a Secret with the password." }}
{{- end }}
{{- end }}
{{- end }}
{{- with $values.postgres }}
{{- if and (eq .mode "external") (not (include "couponry.hasFile" .external.ca)) (not (contains "sslmode=verify-" .external.url)) }}
{{- $lines = append $lines "postgres.external.ca is empty: the server's certificate is not verified. Set it, or append ?sslmode=verify-full to the URL." }}
{{- end }}
{{- end }}
{{- with $values.kafka }}
{{- if and (eq .mode "external") (not (hasSuffix "ssl" .external.securityProtocol)) }}
{{- $lines = append $lines (printf "kafka.external.securityProtocol is %s: connections are not encrypted. Set sasl_ssl or ssl." .external.securityProtocol) }}
{{- end }}
{{- end }}
{{- if and $values.ingress.enabled (not $values.ingress.tls) }}
{{- $lines = append $lines "ingress.tls is empty: tokens and codes are sent unencrypted. Set a certificate." }}
{{- end }}

{{- /* Durability. */}}
{{- range $server := list "redis" "postgres" "kafka" }}
{{- if eq (get $values $server).mode "embedded" }}
{{- $lines = append $lines (printf "%s.mode is embedded: a single pod without replicas and backups. Set external." $server) }}
{{- end }}
{{- end }}
{{- $lines = append $lines "spec.acknowledge of a CouponEvent is Redis by default: a coupon whose record is not in Kafka yet is lost with Redis. Set Kafka for coupons with a monetary value." }}

{{- /* Capacity and availability. */}}
{{- if not (or $values.image.registry $global.imageRegistry) }}
{{- $lines = append $lines "image.registry is empty: no public registry has the images of the programs. Set the registry that you pushed them to." }}
{{- end }}
{{- range $who := list "perUser" "perAddress" }}
{{- if eq (include "couponry.decimal" (get $issuer.rateLimit $who).requestsPerSecond) "0" }}
{{- $lines = append $lines (printf "issuer.rateLimit.%s.requestsPerSecond is 0: one client can use the capacity of an issuer. Set a limit." $who) }}
{{- end }}
{{- end }}
{{- if and (or $values.ingress.enabled $values.httpRoute.enabled) (eq (int $issuer.trustedProxies) 0) }}
{{- $lines = append $lines "issuer.trustedProxies is 0: all clients behind the proxy have its address. Set the number of proxies that append to X-Forwarded-For." }}
{{- end }}
{{- if not $issuer.autoscaling.enabled }}
{{- $lines = append $lines "issuer.autoscaling.enabled is false: spec.scaling of an event has no effect. Set it to true if the cluster has a metrics server." }}
{{- end }}
{{- if eq (dig "requests" "cpu" "" $issuer.resources | toString) "250m" }}
{{- $lines = append $lines "issuer.resources.requests.cpu is 250m: too little for peak load. Set it as docs/operate/sizing.md describes." }}
{{- end }}
{{- if le (int $issuer.drainSeconds) 10 }}
{{- $lines = append $lines (printf "issuer.drainSeconds is %d: a load balancer that deregisters more slowly sends requests to closed pods. Set it above the deregistration delay." (int $issuer.drainSeconds)) }}
{{- end }}
{{- $enforced := false }}
{{- range $issuer.topologySpreadConstraints }}{{ if eq .whenUnsatisfiable "DoNotSchedule" }}{{ $enforced = true }}{{ end }}{{ end }}
{{- if not $enforced }}
{{- $lines = append $lines "issuer.topologySpreadConstraints are not enforced: all issuers can run on one node. Set whenUnsatisfiable to DoNotSchedule." }}
{{- end }}
{{- $partitions := int $values.kafka.topic.partitions }}
{{- with $values.consumer.autoscaling }}
{{- if and .enabled (lt (int .maxReplicas) $partitions) }}
{{- $lines = append $lines (printf "consumer.autoscaling.maxReplicas is %d: fewer than the %d partitions of the topic. Set it to that number." (int .maxReplicas) $partitions) }}
{{- end }}
{{- end }}

{{- /* Monitoring. */}}
{{- range $key, $purpose := dict "serviceMonitor" "Prometheus does not scrape the programs" "prometheusRule" "there are no alerts" }}
{{- if not (get $values.metrics $key).enabled }}
{{- $lines = append $lines (printf "metrics.%s.enabled is false: %s. Set it to true if the cluster has the Prometheus Operator." $key $purpose) }}
{{- end }}
{{- end }}
{{- range $lines }}
- {{ . }}
{{- end }}
{{- end }}
