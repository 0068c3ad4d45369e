{{/* The objects of a file, as a list below `items`. */}}
{{- define "dragonfly.objects" -}}
{{- $objects := list -}}
{{- range splitList "\n---\n" (.files.Get .path) -}}
{{- $objects = append $objects (fromYaml .) -}}
{{- end -}}
{{- toYaml (dict "items" $objects) -}}
{{- end -}}

{{- define "dragonfly.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
