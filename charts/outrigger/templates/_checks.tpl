{{/* What is wrong between values that are good one by one. The schema has checked each. */}}

{{- define "outrigger.checks" -}}
{{- $config := .Values.operator.config -}}
{{- range $key, $said := dict
  "namespace" "the release's namespace (helm install --namespace)"
  "identity" "chosen by each pod"
  "watchNamespaces" "the value watchNamespaces, which makes the Roles too"
  "operatorLabels" "made of the chart's labels"
  "kubeconfig" "the pod's service account"
  "context" "the pod's service account"
-}}
{{- if hasKey $config $key -}}
{{- fail (printf "operator.config.%s is not to be set here: it is %s" $key $said) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not (dig "leaderElection" "enabled" true $config)) -}}
{{- fail "operator.config.leaderElection.enabled=false allows one operator only: set replicas=1" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) .Values.rbac.create -}}
{{- fail "serviceAccount.create=false needs serviceAccount.name: else the namespace's `default` account would get the operator's rights" -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled (not .Values.monitoring.service.enabled) -}}
{{- fail "monitoring.serviceMonitor.enabled needs monitoring.service.enabled: a ServiceMonitor finds a Service" -}}
{{- end -}}
{{- if eq (include "outrigger.adminPort" .) "0" -}}
{{- fail "operator.config.admin.port must not be 0 here: probes and Services name it" -}}
{{- end -}}
{{- end }}
