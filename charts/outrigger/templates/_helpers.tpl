{{/* Names. Everything else is called after the release, so that two of them do not meet. */}}

{{- define "outrigger.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end }}

{{/* At most 45 characters, so that every suffix fits; what is cut is told apart by a hash. It begins with a letter. */}}
{{- define "outrigger.fullname" -}}
{{- $name := include "outrigger.name" . -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- end -}}
{{- $full = $full | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $full -}}
{{- $full = printf "o%s" $full -}}
{{- end -}}
{{- if gt (len $full) 45 -}}
{{- $full = printf "%s-%s" ($full | trunc 36 | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- end -}}
{{- $full -}}
{{- end }}

{{- define "outrigger.operatorName" -}}
{{- printf "%s-operator" (include "outrigger.fullname" .) -}}
{{- end }}

{{- define "outrigger.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "outrigger.operatorName" .) "default") .Values.serviceAccount.name -}}
{{- end }}

{{- define "outrigger.leaseName" -}}
{{- dig "leaderElection" "leaseName" (include "outrigger.operatorName" .) .Values.operator.config -}}
{{- end }}

{{- define "outrigger.adminPort" -}}
{{- dig "admin" "port" 8081 .Values.operator.config | int -}}
{{- end }}

{{/* Labels of every object. */}}
{{- define "outrigger.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" "outrigger-operator"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63)
  "app.kubernetes.io/part-of" "outrigger"
  "app.kubernetes.io/managed-by" .Release.Service
-}}
{{- toYaml (mergeOverwrite (dict) .Values.commonLabels $own) -}}
{{- end }}

{{/* Labels that select the operator's pods; they never change. */}}
{{- define "outrigger.selectorLabels" -}}
app.kubernetes.io/name: outrigger-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The reference of an image: dict "root" $ "name" "sidecar-runtime" "digest" "…". */}}
{{- define "outrigger.image" -}}
{{- $image := .root.Values.image -}}
{{- printf "%s/%s:%s" $image.registry .name (default .root.Chart.AppVersion $image.tag) -}}
{{- with .digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* The operator's configuration: what the chart knows, and what the user says over it. */}}
{{- define "outrigger.config" -}}
{{- $images := dict
  "registry" .Values.image.registry
  "tag" (default .Chart.AppVersion .Values.image.tag)
  "pullPolicy" .Values.image.pullPolicy
  "pullSecrets" .Values.image.pullSecrets
-}}
{{- with .Values.image.digests.sidecar -}}
{{- $_ := set $images "sidecar" (include "outrigger.image" (dict "root" $ "name" "sidecar" "digest" .)) -}}
{{- end -}}
{{- with .Values.image.digests.sidecarRuntime -}}
{{- $_ := set $images "sidecarRuntime" (include "outrigger.image" (dict "root" $ "name" "sidecar-runtime" "digest" .)) -}}
{{- end -}}
{{- $config := dict
  "images" $images
  "leaderElection" (dict "leaseName" (include "outrigger.leaseName" .))
  "operatorLabels" (include "outrigger.selectorLabels" . | fromYaml)
  "watchNamespaces" .Values.watchNamespaces
-}}
{{- with .Values.monitoring.from -}}
{{- $_ := set $config "monitoringFrom" . -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.operator.config)) -}}
{{- end }}

{{/* The namespace that `helm test` makes its MCPServer in: one that the operator works for. */}}
{{- define "outrigger.testNamespace" -}}
{{- $watched := .Values.watchNamespaces -}}
{{- or (empty $watched) (has .Release.Namespace $watched) | ternary .Release.Namespace (first $watched) -}}
{{- end }}

{{/* What a monitor says of one endpoint: its values, its own relabelings. */}}
{{- define "outrigger.endpoint" -}}
port: admin
path: /metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
