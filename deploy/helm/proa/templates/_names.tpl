{{/* What every object carries; `helm.sh/chart` is left out, because it would restart pods for a new chart alone. */}}
{{- define "proa.labels" -}}
app.kubernetes.io/name: proa
app.kubernetes.io/part-of: proa
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "proa.selector" -}}
app.kubernetes.io/name: proa
{{- end }}

{{- define "proa.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
