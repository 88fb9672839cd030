{{- /* One line per Secret that the values refer to and the namespace does not contain. Empty without a connection to a cluster. */}}
{{- define "couponry.missingSecrets" -}}
{{- $secrets := lookup "v1" "Secret" .Release.Namespace "" }}
{{- if $secrets }}
{{- $existing := list }}
{{- range $secrets.items }}{{ $existing = append $existing .metadata.name }}{{ end }}
{{- $required := dict }}
{{- range $server := list "redis" "postgres" "kafka" }}
{{- $values := get $.Values $server }}
{{- include "couponry.namedSecrets" (dict "path" (printf "%s.%s" $server $values.mode) "values" (get $values $values.mode) "required" $required) }}
{{- end }}
{{- if eq .Values.issuer.userIdentity "jwt" }}
{{- include "couponry.namedSecrets" (dict "path" "issuer.jwt" "values" .Values.issuer.jwt "required" $required) }}
{{- end }}
{{- if and .Values.redeemer.enabled (eq .Values.redeemer.auth "jwt") }}
{{- include "couponry.namedSecrets" (dict "path" "redeemer.jwt" "values" .Values.redeemer.jwt "required" $required) }}
{{- end }}
{{- $lines := list }}
{{- range $path, $name := $required }}
{{- if not (has $name $existing) }}{{ $lines = append $lines (printf "  %s (%s)" $name $path) }}{{ end }}
{{- end }}
{{- join "\n" $lines }}
{{- end }}
{{- end }}

{{- /* Collects the names of the Secrets in `values` into the dict `required`, keyed by the path of the value. */}}
{{- define "couponry.namedSecrets" -}}
{{- range $key, $value := .values }}
{{- $path := printf "%s.%s" $.path $key }}
{{- if kindIs "map" $value }}
{{- if and (eq $key "existingSecret") $value.name }}{{ $_ := set $.required $path $value.name }}{{ end }}
{{- include "couponry.namedSecrets" (dict "path" $path "values" $value "required" $.required) }}
{{- else if and (eq $key "secretName") $value }}
{{- $_ := set $.required $path $value }}
{{- end }}
{{- end }}
{{- end }}
