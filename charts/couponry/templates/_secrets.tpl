{{- /* A line for each Secret that the values name and the namespace lacks; nothing when no cluster can be asked. */}}
{{- define "couponry.missingSecrets" -}}
{{- $there := lookup "v1" "Secret" .Release.Namespace "" }}
{{- if $there }}
{{- $names := list }}
{{- range $there.items }}{{ $names = append $names .metadata.name }}{{ end }}
{{- $wanted := dict }}
{{- range $server := list "redis" "postgres" "kafka" }}
{{- $values := get $.Values $server }}
{{- include "couponry.namedSecrets" (dict "place" (printf "%s.%s" $server $values.mode) "values" (get $values $values.mode) "wanted" $wanted) }}
{{- end }}
{{- if eq .Values.issuer.userIdentity "jwt" }}
{{- include "couponry.namedSecrets" (dict "place" "issuer.jwt" "values" .Values.issuer.jwt "wanted" $wanted) }}
{{- end }}
{{- $lines := list }}
{{- range $place, $name := $wanted }}
{{- if not (has $name $names) }}{{ $lines = append $lines (printf "  %s (%s)" $name $place) }}{{ end }}
{{- end }}
{{- join "\n" $lines }}
{{- end }}
{{- end }}

{{- /* Puts the Secrets that are named in these values into `wanted`, by their place. */}}
{{- define "couponry.namedSecrets" -}}
{{- range $key, $value := .values }}
{{- $place := printf "%s.%s" $.place $key }}
{{- if kindIs "map" $value }}
{{- if and (eq $key "existingSecret") $value.name }}{{ $_ := set $.wanted $place $value.name }}{{ end }}
{{- include "couponry.namedSecrets" (dict "place" $place "values" $value "wanted" $.wanted) }}
{{- else if and (eq $key "secretName") $value }}
{{- $_ := set $.wanted $place $value }}
{{- end }}
{{- end }}
{{- end }}
