{{- /* Verification of tokens: environment, volumes and mounts. Argument: the values jwt of a program. */}}

{{- define "couponry.jwt.env" -}}
{{- if .jwksUrl }}
- {name: JWT_JWKS_URL, value: {{ .jwksUrl | quote }}}
{{- if include "couponry.hasFile" .ca }}
- {name: JWT_CA_FILE, value: /etc/couponry/jwks-ca/ca.crt}
{{- end }}
{{- else }}
- {name: JWT_JWKS_FILE, value: /etc/couponry/jwks/jwks.json}
{{- end }}
{{- with .issuer }}
- {name: JWT_ISSUER, value: {{ . | quote }}}
{{- end }}
{{- with .audience }}
- {name: JWT_AUDIENCE, value: {{ . | quote }}}
{{- end }}
- {name: JWT_USER_CLAIM, value: {{ .userClaim | quote }}}
- {name: JWT_LEEWAY_SECONDS, value: {{ .leewaySeconds | int64 | quote }}}
- {name: JWT_REFRESH_SECONDS, value: {{ .refreshSeconds | int64 | quote }}}
{{- end }}

{{- /* Mounted as directories without subPath, so that the kubelet updates rotated keys. */}}
{{- define "couponry.jwt.files" -}}
{{- $files := list }}
{{- range $name, $file := dict "jwks" (dict "from" .jwks "file" "jwks.json") "jwks-ca" (dict "from" .ca "file" "ca.crt") }}
{{- if include "couponry.hasFile" $file.from }}{{ $files = append $files (merge (dict "name" $name) $file) }}{{ end }}
{{- end }}
{{- toYaml $files }}
{{- end }}

{{- define "couponry.jwt.volumes" -}}
{{- range include "couponry.jwt.files" . | fromYamlArray }}
{{ include "couponry.fileVolume" . }}
{{- end }}
{{- end }}

{{- define "couponry.jwt.mounts" -}}
{{- range include "couponry.jwt.files" . | fromYamlArray }}
- {name: {{ .name }}, mountPath: /etc/couponry/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}
